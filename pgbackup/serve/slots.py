"""Replication slots as one connection of our walsender makes, uses and drops them.

All state is in the repository, so that connections of one process and of several see the same. A
slot is in use while its lock is held, which ends with the process, whatever way that ends. What a
client has flushed is stored at once where it holds more WAL than before, and otherwise now and
then: a crash can only leave a slot that holds too much.

Source: slot.c; walsender.c, PhysicalConfirmReceivedLocation (PostgreSQL 18).
"""

import time
from collections.abc import Callable
from typing import NoReturn, Self

from pgbackup.errors import ClientError, CorruptData, Locked, NotFound
from pgbackup.pg.lsn import WalPosition
from pgbackup.repo import layout
from pgbackup.repo.repository import ClusterRepository
from pgbackup.repo.slots import (
    BACKEND,
    Slot,
    delete_slot,
    put_slot,
    read_slot,
    read_slots,
    slot_user,
    stored_slots,
)
from pgbackup.storage.api import Lock

MAX_SLOTS = 100
"""In one cluster, the temporary ones of clients that are connected included."""

MAX_NAME = 63  # bytes

STORE_INTERVAL = 1.0
"""Seconds between two times that a slot is stored which only gets on."""

POLL_INTERVAL = 0.05
"""Seconds between two looks at a slot that another process uses."""

UNDEFINED_OBJECT = "42704"
OBJECT_IN_USE = "55006"

Pause = Callable[[float], object]
"""Waits so many seconds, or raises what ends the waiting."""


class HeldSlot:
    """A slot while one connection uses it."""

    def __init__(
        self,
        cluster: ClusterRepository,
        slot: Slot,
        lock: Lock,
        clock: Callable[[], float],
    ) -> None:
        self.slot = slot
        self._cluster = cluster
        self._lock = lock
        self._clock = clock
        self._stored = slot
        self._due = clock()

    def confirm(self, position: WalPosition) -> None:
        """Take a client's report of what it has flushed; 0 says nothing.

        It may be less than what was reported before, as of a standby that was started again.

        Raises: StorageError.
        """
        if not position.lsn:
            return
        self.slot = self.slot._replace(restart=position)
        stored = self._stored.restart
        is_back = stored is None or position.lsn < stored.lsn or position.timeline < stored.timeline
        if is_back or self._clock() >= self._due:
            self._store()

    def release(self) -> None:
        """Let others use it; a temporary one ends with its session. Raises: StorageError."""
        if not self.slot.is_temporary:
            try:
                self._store()
            finally:
                self._lock.release()

    def drop(self) -> None:
        """Remove it. Raises: StorageError."""
        with self._lock:
            delete_slot(self._cluster, self.slot.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.release()

    def _store(self) -> None:
        if self.slot != self._stored:
            put_slot(self._cluster, self.slot)
            self._stored = self.slot
        self._due = self._clock() + STORE_INTERVAL


class Slots:
    """The slots of a cluster, for one connection."""

    def __init__(
        self,
        cluster: ClusterRepository,
        pid: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """pid: of the connection, as its client knows it."""
        self._cluster = cluster
        self._pid = pid
        self._clock = clock
        self._temporary: dict[str, HeldSlot] = {}

    def create(
        self, name: str, *, is_temporary: bool = False, reserve: WalPosition | None = None
    ) -> None:
        """Make a slot; a temporary one is held from now on.

        reserve: what it holds already; whether that WAL is still there is to be looked at after.

        Raises: ClientError, StorageError.
        """
        check_slot_name(name)
        self._remove_dead()
        existing = [slot.name for slot, _ in read_slots(self._cluster)]
        if name not in existing and len(existing) >= MAX_SLOTS:
            raise ClientError("all replication slots are in use", sqlstate="53400")
        lock = None if name in existing else self._try_lock(name)
        if lock is None:
            raise _exists(name)
        held = HeldSlot(self._cluster, Slot(name, is_temporary, reserve), lock, self._clock)
        try:
            if read_slot(self._cluster, name) is not None:
                raise _exists(name)
            put_slot(self._cluster, held.slot)
        except BaseException:
            lock.release()
            raise
        if is_temporary:
            self._temporary[name] = held
        else:
            lock.release()

    def read(self, name: str) -> Slot | None:
        """A slot as it is known outside the connection that uses it. Raises: StorageError."""
        if name in self._temporary:
            return self._temporary[name].slot
        return read_slot(self._cluster, name) if layout.is_slot_name(name) else None

    def acquire(self, name: str, wait: Pause | None = None) -> HeldSlot:
        """Use a slot until its release.

        wait: for another connection that uses it.

        Raises: ClientError if there is none, or it is in use; StorageError.
        """
        if name in self._temporary:
            return self._temporary[name]
        while self.read(name) is not None:
            lock = self._try_lock(name)
            if lock is not None:
                return self._hold(name, lock)
            if wait is None:
                pid = slot_user(self._cluster, name)
                if pid is not None:
                    raise ClientError(
                        f'replication slot "{name}" is active for PID {pid}', sqlstate=OBJECT_IN_USE
                    )
            else:
                wait(POLL_INTERVAL)
        raise _missing(name)

    def alter(self, name: str, wait: Pause) -> NoReturn:
        """Refuse, once the slot is free: ours have nothing that could be altered."""
        self.acquire(name, wait).release()
        raise ClientError(
            "cannot use ALTER_REPLICATION_SLOT with a physical replication slot", sqlstate="0A000"
        )

    def drop(self, name: str, wait: Pause | None = None) -> None:
        """Remove a slot. wait: as for acquire. Raises: as acquire."""
        self.acquire(name, wait).drop()
        self._temporary.pop(name, None)

    def drop_temporary(self) -> None:
        """End the temporary slots of the connection: it has ended, or an error came up.

        Raises: StorageError.
        """
        while self._temporary:
            self._temporary.popitem()[1].drop()

    def _hold(self, name: str, lock: Lock) -> HeldSlot:
        try:
            slot = read_slot(self._cluster, name)
            if slot is None or slot.is_temporary:
                raise _missing(name)
        except BaseException:
            lock.release()
            raise
        return HeldSlot(self._cluster, slot, lock, self._clock)

    def _try_lock(self, name: str) -> Lock | None:
        owner = {"command": "serve", BACKEND: str(self._pid)}
        try:
            return self._cluster.storage.lock(layout.slot_lock(self._cluster.system, name), owner)
        except Locked:
            return None

    def _remove_dead(self) -> None:
        """Remove temporary slots that outlived their process."""
        for slot in stored_slots(self._cluster):
            lock = self._try_lock(slot.name) if slot.is_temporary else None
            if lock is None:
                continue
            with lock:
                now = read_slot(self._cluster, slot.name)
                if now is not None and now.is_temporary:
                    delete_slot(self._cluster, slot.name)


def check_slot_name(name: str) -> None:
    """Raises: ClientError. Source: slot.c, ReplicationSlotValidateName (PostgreSQL 18)."""
    if not name:
        raise ClientError(f'replication slot name "{name}" is too short', sqlstate="42602")
    if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME:
        raise ClientError(f'replication slot name "{name}" is too long', sqlstate="42622")
    if not layout.is_slot_name(name):
        raise ClientError(
            f'replication slot name "{name}" contains invalid character',
            sqlstate="42602",
            hint="Replication slot names may only contain lower case letters, numbers, and the"
            " underscore character.",
        )


def drop_unused(cluster: ClusterRepository, name: str, pid: int) -> None:
    """Remove a slot for an operator. Raises: NotFound, Locked, StorageError."""
    try:
        Slots(cluster, pid).drop(name)
    except CorruptData:  # whoever names it wants it gone
        with cluster.storage.lock(layout.slot_lock(cluster.system, name)):
            delete_slot(cluster, name)
    except ClientError as error:
        kinds = {UNDEFINED_OBJECT: NotFound, OBJECT_IN_USE: Locked}
        raise kinds[error.sqlstate](
            f'could not drop replication slot "{name}": {error.message}',
            hint="See all slots with: pgbackup slot show -B REPO",
        ) from error


def _exists(name: str) -> ClientError:
    return ClientError(f'replication slot "{name}" already exists', sqlstate="42710")


def _missing(name: str) -> ClientError:
    return ClientError(f'replication slot "{name}" does not exist', sqlstate=UNDEFINED_OBJECT)
