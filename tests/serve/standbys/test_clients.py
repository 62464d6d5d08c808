"""What is known of the clients of a walsender, and what enough of them have together."""

import select
from collections.abc import Iterator
from contextlib import closing

import pytest

from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.serve.standbys.clients import Attendance, Clients
from pgbackup.serve.standbys.clientstatus import ClientState, ClientStatus, clean_name
from pgbackup.serve.standbys.quorum import Quorum
from pgbackup.serve.standbys.standbynames import parse_standby_names
from pgbackup.wire.messages import EPOCH_DIFFERENCE, StandbyStatus

ONE, TWO = Timeline(1), Timeline(2)


def said(write: int, flush: int, apply: int = 0) -> StandbyStatus:
    return StandbyStatus(Lsn(write), Lsn(flush), Lsn(apply), 77, reply_requested=False)


def join(clients: Clients, name: str, pid: int = 1) -> Attendance:
    return clients.attend(ClientStatus(pid, "backup", name, None, None, 5))


def stream(clients: Clients, name: str, flush: int, timeline: Timeline = ONE) -> Attendance:
    """A client that has got everything and has flushed up to a position."""
    made = join(clients, name)
    made.begin_stream(timeline, Lsn(0))
    made.note_sent(Lsn(1000), Lsn(1000))
    made.note_caught_up()
    made.note_reply(said(flush, flush))
    return made


def test_a_client_goes_through_the_states_of_a_walsender() -> None:
    clients = Clients()
    with join(clients, "a") as client:
        seen = [client.status.state]
        client.begin_backup()
        seen.append(client.status.state)
        client.end_command()
        client.note_caught_up()
        seen.append(client.status.state)
        client.begin_stream(TWO, Lsn(50))
        seen.append(client.status.state)
        client.note_caught_up()
        client.begin_stopping()
        seen.append(client.status.state)
        assert clients.statuses() == [client.status]
    assert [each.value for each in seen] == [
        "startup", "backup", "startup", "catchup", "stopping",
    ]  # fmt: skip
    assert clients.statuses() == []


def test_places_are_kept_and_taken_again() -> None:
    clients = Clients()
    first, second = join(clients, "a", 1), join(clients, "b", 2)
    third = join(clients, "c", 3)
    with second:
        pass
    fourth = join(clients, "d", 4)
    assert clients.statuses() == [first.status, fourth.status, third.status]


def test_what_a_client_tells_is_shown_until_its_next_stream() -> None:
    client = stream(Clients(), "a", 900)
    assert client.status.reply_time == 77 + EPOCH_DIFFERENCE
    assert (client.status.sent_lsn, client.status.write_lsn) == (1000, 900)
    assert client.status.write_lag is not None
    assert client.status.replay_lag is None
    client.begin_stream(TWO, Lsn(800))
    assert client.status[7:12] == (TWO, 800, 0, 0, 0)
    assert client.status.write_lag is None


def test_lags_are_forgotten_when_nothing_happens_any_more() -> None:
    client = join(Clients(), "a")
    client.begin_stream(ONE, Lsn(0))
    client.note_sent(Lsn(1000), Lsn(1000))
    client.note_reply(said(1000, 1000, 1000))
    assert None not in client.status[12:15]
    client.note_reply(said(1000, 1000, 1000))
    assert client.status[12:15] == (None, None, None)


@pytest.mark.parametrize(
    ("name", "expected"), [("a b", "a b"), ("ü\x07", "???"), ("x" * 70, "x" * 63), ("", "")]
)
def test_an_application_name_is_short_printable_ascii(name: str, expected: str) -> None:
    assert clean_name(name) == expected


@pytest.fixture
def clients() -> Clients:
    return Clients()


@pytest.fixture
def quorum(clients: Clients) -> Iterator[Quorum]:
    names = parse_standby_names("ANY 2 (a, b, c)")
    assert names is not None
    with closing(Quorum(names, clients)) as made:
        yield made


def test_enough_clients_have_to_have_it(clients: Clients, quorum: Quorum) -> None:
    stream(clients, "a", 900)
    stream(clients, "stranger", 1000)
    assert quorum.limit(ONE).flush == 0
    late = stream(clients, "C", 500)
    assert quorum.limit(ONE).flush == 500
    late.note_reply(said(700, 600))
    assert quorum.limit(ONE).flush == 600


def test_what_enough_clients_have_applied_is_told_apart(clients: Clients, quorum: Quorum) -> None:
    stream(clients, "a", 900).note_reply(said(900, 900, 700))
    late = stream(clients, "b", 900)
    assert quorum.limit(ONE) == (900, 0)
    late.note_reply(said(900, 900, 800))
    assert quorum.limit(ONE) == (900, 700)
    late.note_reply(said(900, 900, 0))
    assert quorum.limit(ONE) == (900, 700)


def test_what_was_reached_stays_reached(clients: Clients, quorum: Quorum) -> None:
    stream(clients, "a", 900)
    with stream(clients, "b", 800) as leaving:
        assert quorum.limit(ONE).flush == 800
        leaving.note_reply(said(100, 100))
        assert quorum.limit(ONE).flush == 800
    stream(clients, "c", 200)
    assert quorum.limit(ONE).flush == 800


def test_only_clients_of_the_timeline_count(clients: Clients, quorum: Quorum) -> None:
    old = stream(clients, "a", 900)
    new = stream(clients, "b", 800)
    assert quorum.limit(ONE).flush == 800
    for client in (old, new):
        assert quorum.limit(TWO).flush == 0
        client.begin_stream(TWO, Lsn(700))
        client.note_caught_up()
        client.note_reply(said(750, 750))
    assert quorum.limit(TWO).flush == 750


def test_a_client_that_catches_up_does_not_count_yet(clients: Clients, quorum: Quorum) -> None:
    stream(clients, "a", 900)
    late = join(clients, "b")
    late.begin_stream(ONE, Lsn(0))
    late.note_reply(said(900, 900))
    assert late.status.state is ClientState.CATCHUP
    assert quorum.limit(ONE).flush == 0
    late.note_caught_up()
    assert quorum.limit(ONE).flush == 900


def test_its_descriptor_tells_of_what_may_matter(clients: Clients, quorum: Quorum) -> None:
    def is_told() -> bool:
        return bool(select.select([quorum.fileno()], [], [], 0)[0])

    client = stream(clients, "a", 900)
    assert is_told()
    quorum.limit(ONE)
    assert not is_told()
    client.note_sent(Lsn(2000), Lsn(2000))
    client.note_reply(said(950, 900))
    assert not is_told()
    client.note_reply(said(950, 950))
    assert is_told()
    quorum.limit(ONE)
    client.note_reply(said(950, 950, 910))
    assert is_told()
