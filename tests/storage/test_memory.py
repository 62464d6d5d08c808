"""MemoryStorage keeps the contract."""

import pytest

from pgbackup.storage.api import Storage
from pgbackup.storage.memory import MemoryStorage
from tests.storage.contract import StorageContract


class TestMemoryStorage(StorageContract):
    @pytest.fixture
    def storage(self) -> Storage:
        return MemoryStorage()
