"""Whom a process serves, for other processes of its host to read without a lock.

A small file that is replaced when something has changed, at most every INTERVAL, by a thread of the
server. Who is killed leaves it: whether it counts, the lock of the process tells, and the next one
that serves the cluster removes it. Where the cluster has no directory in a repository, as when a
data directory is served without one, or cannot be written to, there is no such file.

Source: walsender.c, pg_stat_get_wal_senders (PostgreSQL 18), in spirit.
"""

import json
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from pgbackup.errors import ClientError, CorruptData, Locked, StorageDenied, StorageError
from pgbackup.interrupts import held_back
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository
from pgbackup.serve.standbys.clients import Clients
from pgbackup.serve.standbys.clientstatus import ClientState, ClientStatus
from pgbackup.serve.standbys.quorum import standby
from pgbackup.serve.standbys.standbynames import StandbyNames, parse_standby_names
from pgbackup.serve.standbys.syncrep import SyncState, sync_states
from pgbackup.storage.api import Lock
from pgbackup.storage.durable import FileSystem, storage_errors
from pgbackup.storage.leftovers import temporary_name

INTERVAL = 0.5
"""Seconds between two looks whether the clients do something else than before."""

_PID_LIMIT: Final = 1 << 22  # of Linux; threads.h, PID_MAX_LIMIT


class ClientsFile:
    """The file of one process, while the block lasts.

    names: the value of synchronous_standby_names.
    """

    def __init__(
        self,
        cluster: ClusterRepository,
        clients: Clients,
        names: str,
        filesystem: FileSystem | None = None,
    ) -> None:
        self._filesystem = filesystem or FileSystem()
        self._cluster = cluster
        self._clients = clients
        self._names = names
        self._closing = threading.Event()
        self._root = _directory(cluster)
        self._lock: Lock | None = None
        self._thread = threading.Thread(target=self._run, name="statistics", daemon=True)

    def __enter__(self) -> Self:
        """Who may not write into the repository serves it without. Raises: StorageError."""
        if self._root is not None:
            with suppress(StorageDenied):
                self._begin(self._root)
        return self

    def __exit__(self, *unused: object) -> None:
        if self._lock is not None:
            self._closing.set()
            self._thread.join()
            Path(self._path).unlink(missing_ok=True)
            self._lock.release()

    def _begin(self, root: str) -> None:
        _remove_dead(self._cluster, root)
        number, self._lock = _take_number(self._cluster)
        self._path = f"{root}/{layout.served_clients(self._cluster.system, number)}"
        with held_back():
            self._thread.start()

    def _run(self) -> None:
        before: list[ClientStatus] | None = None
        while not self._closing.wait(INTERVAL):
            statuses = self._clients.statuses()
            if statuses != before:
                with suppress(StorageError):  # it is only for those who look
                    self._replace(statuses)
                    before = statuses

    def _replace(self, statuses: list[ClientStatus]) -> None:
        rows = [[*each._replace(state=each.state.value)] for each in statuses]  # type: ignore[arg-type]
        content = json.dumps({"synchronous_standby_names": self._names, "clients": rows})
        folder, name = os.path.split(self._path)
        temporary = f"{folder}/{temporary_name(name)}"
        with storage_errors("write file", self._path):
            fd = self._filesystem.open_new(temporary)
            try:
                self._filesystem.write_all(fd, content.encode())
                self._filesystem.rename(temporary, self._path)
            except BaseException:
                self._filesystem.unlink(temporary)
                raise
            finally:
                self._filesystem.close(fd)


class ServedClient(NamedTuple):
    """A client, and what it is for synchronous replication."""

    status: ClientStatus
    sync_state: SyncState
    sync_priority: int


def read_clients(cluster: ClusterRepository) -> list[ServedClient]:
    """The clients of all processes of this host that serve a cluster. Raises: StorageError."""
    root = cluster.storage.features.local_path
    found: list[ServedClient] = []
    for path, pid in [] if root is None else _files(cluster, root):
        if cluster.storage.holder(layout.serve_lock(cluster.system, pid)) is not None:
            with suppress(FileNotFoundError):  # it has ended meanwhile
                found += _parse(path.read_text(errors="replace"))
    return found


def _take_number(cluster: ClusterRepository) -> tuple[int, Lock]:
    """Our process's number, or one that no process has: in another container it may be taken.

    Raises: StorageError.
    """
    number = os.getpid()
    while True:
        try:
            name = layout.serve_lock(cluster.system, number)
            return number, cluster.storage.lock(name, {"command": "serve"})
        except Locked:
            number += _PID_LIMIT


def _directory(cluster: ClusterRepository) -> str | None:
    """Of the repository, if the cluster has one in it."""
    root = cluster.storage.features.local_path
    is_there = root is not None and Path(root, layout.system_folder(cluster.system)).is_dir()
    return root if is_there else None


def _files(cluster: ClusterRepository, root: str) -> list[tuple[Path, int]]:
    """The files of processes, alive or not, with their numbers."""
    folder = Path(root, layout.system_folder(cluster.system))
    with storage_errors("read directory", str(folder)):
        paths = sorted(folder.iterdir())
    found = [(path, layout.served_by(path.name)) for path in paths]
    return [(path, pid) for path, pid in found if pid is not None]


def _remove_dead(cluster: ClusterRepository, root: str) -> None:
    """Remove what killed processes left, their lock files included."""
    for path, pid in _files(cluster, root):
        with suppress(Locked), cluster.storage.lock(layout.serve_lock(cluster.system, pid)):
            path.unlink(missing_ok=True)


def _parse(text: str) -> list[ServedClient]:
    """Nothing of a file that is none of ours, as of another version."""
    try:
        document = json.loads(text)
        names = parse_standby_names(document["synchronous_standby_names"])
        statuses = [_status(row) for row in document["clients"]]
    except (ValueError, KeyError, TypeError, RecursionError, ClientError, CorruptData):
        return []
    return served_clients(names, statuses)


def served_clients(
    names: StandbyNames | None, statuses: Sequence[ClientStatus]
) -> list[ServedClient]:
    """What clients are for synchronous replication."""
    states = sync_states(names, [standby(names, each) for each in statuses])
    return [ServedClient(each, *state) for each, state in zip(statuses, states, strict=True)]


def _status(row: list[object]) -> ClientStatus:
    found = ClientStatus(*row)  # type: ignore[arg-type]
    return found._replace(
        state=ClientState(found.state),
        timeline=None if found.timeline is None else Timeline(found.timeline),
        sent_lsn=Lsn(found.sent_lsn),
        write_lsn=Lsn(found.write_lsn),
        flush_lsn=Lsn(found.flush_lsn),
        replay_lsn=Lsn(found.replay_lsn),
    )
