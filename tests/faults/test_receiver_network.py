"""The network between a receiver and its server fails: the receiver notices, and goes on."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.archiving.acknowledged import Commits, back_up, expect_archived
from tests.archiving.receiver.receiving import (
    KEEP,
    MIB,
    end,
    expect_no_hole_and_no_wrong_byte,
    load,
    running_errors,
    wait_until_attached,
    wait_until_received,
)
from tests.cli import program
from tests.cli.program import Running
from tests.cluster import Cluster
from tests.faults.network import Network
from tests.fix_cluster import ClusterFactory
from tests.fix_receiver import Receive
from tests.waiting import PATIENCE, wait_for

CUTS = int(os.environ.get("PGBACKUP_TEST_CUTS", "6"))
"""How often the connection is cut under load; 100 before a release."""

Impatient = Callable[..., Running]
ONE_MAJOR = pytest.mark.parametrize("major", [16])
SILENCE = 1.5
"""Seconds of silence that an impatient receiver stands here."""

FOR_EVER = 10 * PATIENCE

SETTINGS = {**KEEP, "max_wal_size": "1GB", "wal_sender_timeout": "3s"}


@pytest.fixture
def server(cluster_factory: ClusterFactory, major: int) -> Cluster:
    return cluster_factory(major, settings=SETTINGS)


@pytest.fixture
def network(server: Cluster) -> Iterator[Network]:
    with Network(server.run_directory / f".s.PGSQL.{server.port}") as made:
        yield made


def through(*networks: Network) -> str:
    """A connection string by way of one or several networks."""
    ports = ",".join(str(each.port) for each in networks)
    hosts = ",".join("127.0.0.1" for _ in networks)
    return f"host={hosts} port={ports} user=postgres application_name=pgb sslmode=disable"


@pytest.fixture
def impatient(tmp_path: Path, network: Network) -> Iterator[Callable[..., Running]]:
    """Starts a receiver that stands so many seconds of silence."""
    started: list[Running] = []

    def start(*words: object, silence: float = SILENCE) -> Running:
        words = ("receive-wal", "-B", tmp_path / "repo", "-d", through(network), *words)
        started.append(program.begin_module(tmp_path, "tests.faults.impatient", silence, *words))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.mark.parametrize("major", [13, 18])
def test_cut_at_random_moments_under_load_it_goes_on(
    server: Cluster, network: Network, receive: Receive, tmp_path: Path
) -> None:
    back_up(tmp_path, server)
    source = random.Random(5)
    with Commits(server) as commits:
        running = receive(server, "-S", "own", "-C", conninfo=through(network))
        for _ in range(CUTS):
            network.cut(after=source.randrange(3 * MIB))
        assert running.process.poll() is None
    received = wait_until_received(tmp_path, server)
    end(running)
    expect_no_hole_and_no_wrong_byte(tmp_path, server, received)
    expect_archived(tmp_path, server, commits.numbers)


@pytest.mark.parametrize("loss", ["silent", "half-open"])
@ONE_MAJOR
def test_a_server_that_says_nothing_any_more_is_given_up_and_asked_again(
    server: Cluster, network: Network, impatient: Impatient, tmp_path: Path, loss: str
) -> None:
    running = impatient("-S", "own", "-C", "--if-not-exists")
    wait_until_attached(server)
    load(server)
    wait_until_received(tmp_path, server)
    if loss == "silent":
        network.fall_silent()
    else:
        network.lose_server()
    load(server)
    wait_for(lambda: "the server has been silent for" in running_errors(tmp_path))
    network.recover()
    received = wait_until_received(tmp_path, server)
    end(running)
    expect_no_hole_and_no_wrong_byte(tmp_path, server, received)


@pytest.mark.parametrize("command", ["IDENTIFY_SYSTEM", "SHOW", "START_REPLICATION"])
@ONE_MAJOR
def test_a_command_that_is_not_answered_is_given_up_and_sent_again(
    server: Cluster, network: Network, impatient: Impatient, tmp_path: Path, command: str
) -> None:
    network.fall_silent(command.encode())
    running = impatient()
    network.wait_until_silent()
    wait_for(lambda: "the server has not answered for" in running_errors(tmp_path))
    network.recover()
    wait_until_attached(server)
    load(server, 1)
    received = wait_until_received(tmp_path, server)
    end(running)
    expect_no_hole_and_no_wrong_byte(tmp_path, server, received)


@ONE_MAJOR
def test_a_silent_server_does_not_keep_a_receiver_from_stopping(
    server: Cluster, network: Network, impatient: Impatient, tmp_path: Path
) -> None:
    running = impatient(silence=FOR_EVER)
    wait_until_attached(server)
    load(server)
    wait_until_received(tmp_path, server)
    network.fall_silent()
    running.send(signal.SIGTERM)
    assert running.wait().status == 0


@ONE_MAJOR
def test_of_several_hosts_the_next_is_asked(
    server: Cluster, network: Network, receive: Receive, tmp_path: Path
) -> None:
    with Network(server.run_directory / f".s.PGSQL.{server.port}") as other:
        running = receive(server, conninfo=through(network, other))
        wait_until_attached(server)
        load(server)
        network.refuse()
        load(server)
        received = wait_until_received(tmp_path, server)
        end(running)
    expect_no_hole_and_no_wrong_byte(tmp_path, server, received)
