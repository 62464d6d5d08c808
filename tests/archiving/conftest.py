"""Fixtures of the tests of the WAL hooks."""

from pathlib import Path

import pytest

from tests.archiving.serverdir import ServerDirectory


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerDirectory:
    """A data directory, which is the current directory."""
    return ServerDirectory(tmp_path, monkeypatch)
