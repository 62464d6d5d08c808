"""A pytest fixture for receivers that end with the test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli import program
from tests.cli.program import Running
from tests.cluster import Cluster

Receive = Callable[..., Running]
"""receive(server, *words, conninfo=None) -> Running; the first is pgb0, then pgb1 and so on."""


@pytest.fixture
def receive(tmp_path: Path) -> Iterator[Receive]:
    """Starts receivers into tmp_path/repo; those still running are killed at the end."""
    started: list[Running] = []

    def start(server: Cluster, *arguments: object, conninfo: str | None = None) -> Running:
        name = f"pgb{len(started)}"
        chosen = server.conninfo(application_name=name) if conninfo is None else conninfo
        words = ("-B", tmp_path / "repo", "-d", chosen)
        started.append(program.begin(tmp_path, "receive-wal", *words, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
