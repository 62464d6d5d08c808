"""Both storages, so that no test passes by an accident of one."""

from pathlib import Path

import pytest

from pgbackup.storage.api import Storage
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.memory import MemoryStorage


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A storage that nobody wrote to yet."""
    return LocalStorage(tmp_path / "repo") if request.param == "local" else MemoryStorage()
