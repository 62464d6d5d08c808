"""What processes of one host tell each other of whom they serve."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from pgbackup.errors import StorageDenied
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.serve.standbys.clients import Clients
from pgbackup.serve.standbys.clientsfile import ClientsFile, read_clients
from pgbackup.storage.api import Lock
from pgbackup.storage.durable import FileSystem
from pgbackup.storage.local import LocalStorage
from tests.backup.sample import sample
from tests.serve.standbys.test_clients import join
from tests.waiting import wait_for


class ReadOnly(LocalStorage):
    """As on a file system that is mounted like that."""

    def lock(self, name: str, owner: Mapping[str, str] | None = None) -> Lock:
        raise StorageDenied(f'could not lock "{name}": the file system is mounted read-only')


class Full(FileSystem):
    """A device without room for contents. refused: how often."""

    refused = 0

    def write_all(self, fd: int, view: bytes | bytearray | memoryview) -> None:
        self.refused += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def files(directory: Path, cluster: ClusterRepository) -> list[str]:
    names = [path.name for path in (directory / layout.system_folder(cluster.system)).iterdir()]
    return [name for name in names if layout.served_by(name) is not None]


def test_processes_that_have_the_same_number_are_told_apart(tmp_path: Path) -> None:
    """In two containers, over one repository, most of them have the number 1."""
    cluster = sample().put(LocalStorage(tmp_path))

    def names() -> list[str]:
        return sorted(each.status.application_name for each in read_clients(cluster))

    one, two = Clients(), Clients()
    with ClientsFile(cluster, one, ""), join(one, "a"):
        with ClientsFile(cluster, two, ""), join(two, "b"):
            wait_for(lambda: names() == ["a", "b"])
        assert names() == ["a"]
    assert files(tmp_path, cluster) == []


def test_who_may_not_write_serves_all_the_same(tmp_path: Path) -> None:
    sample().put(LocalStorage(tmp_path))
    cluster = Repository.open(ReadOnly(tmp_path)).only_cluster()
    clients = Clients()
    with ClientsFile(cluster, clients, ""), join(clients, "a"):
        assert files(tmp_path, cluster) == []


def test_a_file_that_is_none_of_ours_tells_of_nobody(tmp_path: Path) -> None:
    cluster = sample().put(LocalStorage(tmp_path))
    clients = Clients()
    with ClientsFile(cluster, clients, ""), join(clients, "a"):
        wait_for(lambda: len(read_clients(cluster)) == 1)
        (name,) = files(tmp_path, cluster)
        path = tmp_path / layout.system_folder(cluster.system) / name
        good = path.read_text()
        timeline = good.replace('"a"', '"a", 0')
        for spoiled in (b"", b"\xff", b"[" * 10_000, b"[]", b"{}", timeline.encode()):
            path.write_bytes(spoiled)
            assert read_clients(cluster) == []


def test_a_full_disk_is_not_filled_with_attempts(tmp_path: Path) -> None:
    cluster = sample().put(LocalStorage(tmp_path))
    folder = tmp_path / layout.system_folder(cluster.system)
    before = set(folder.iterdir())
    clients, full = Clients(), Full()
    with ClientsFile(cluster, clients, "", full), join(clients, "a"):
        wait_for(lambda: full.refused > 1)
    assert set(folder.iterdir()) == before
