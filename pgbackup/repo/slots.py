"""Replication slots of the clients that get WAL from this repository.

One small document each, replaced as its client gets on. Whoever uses a slot holds its lock; a
temporary slot lives as long as that, and what a killed process left of one counts for nothing.
All of them hold WAL back from expire.

Source: slot.h, ReplicationSlotPersistentData (PostgreSQL 18), as far as physical slots have it.
"""

import json
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from pgbackup.errors import CorruptData, NotFound
from pgbackup.pg.lsn import WalPosition
from pgbackup.repo import layout
from pgbackup.repo.fields import Fields
from pgbackup.repo.repository import ClusterRepository

FORMAT = 1
BACKEND = "backend"
"""What the owner of a slot's lock tells of itself: the PID that its client knows."""

_LIMIT = 4096  # bytes
_SUFFIX = ".json"


class Slot(NamedTuple):
    """A physical slot. restart: where the WAL begins that it holds; None while it holds none."""

    name: str
    is_temporary: bool
    restart: WalPosition | None


def read_slot(cluster: ClusterRepository, name: str) -> Slot | None:
    """A slot as it was stored last, whether its owner is alive or not.

    Raises: CorruptData, StorageError.
    """
    try:
        return _read(cluster, name)
    except CorruptData as error:
        repo = shlex.quote(cluster.storage.url)
        raise CorruptData(
            error.message,
            detail=error.detail,
            hint=f"To give the slot up, type: pgbackup slot drop {name} -B {repo}",
        ) from error


def _read(cluster: ClusterRepository, name: str) -> Slot | None:
    stored = layout.slot_object(cluster.system, name)
    try:
        fields = Fields.parse(cluster.storage.read(stored, _LIMIT), cluster.storage.locate(stored))
    except NotFound:
        return None
    if fields.number("format") != FORMAT:
        raise CorruptData(f'could not read "{fields.name}": its format is not known')
    restart = None
    if fields.has("restart_lsn"):
        restart = WalPosition(fields.timeline("restart_tli"), fields.lsn("restart_lsn"))
    return Slot(name, fields.truth("is_temporary"), restart)


def put_slot(cluster: ClusterRepository, slot: Slot) -> None:
    """Store a slot, durably; the caller holds its lock. Raises: StorageError."""
    document = {
        "format": FORMAT,
        "is_temporary": slot.is_temporary,
        "restart_lsn": None if slot.restart is None else str(slot.restart.lsn),
        "restart_tli": None if slot.restart is None else int(slot.restart.timeline),
    }
    with cluster.storage.writer(layout.slot_object(cluster.system, slot.name)) as writer:
        writer.write((json.dumps(document, indent=2) + "\n").encode())
        writer.commit(replace=True)


def delete_slot(cluster: ClusterRepository, name: str) -> None:
    """Remove a slot for good; the caller holds its lock. Raises: StorageError."""
    cluster.storage.delete(layout.slot_object(cluster.system, name))


def stored_slots(cluster: ClusterRepository) -> Iterator[Slot]:
    """All, by name, with what killed processes left. Raises: CorruptData, StorageError."""
    folder = layout.slots_folder(cluster.system)
    for found in cluster.storage.list(folder):
        name = found.name.removeprefix(folder).removesuffix(_SUFFIX)
        if found.name.endswith(_SUFFIX) and layout.is_slot_name(name):
            slot = read_slot(cluster, name)
            if slot is not None:
                yield slot


def read_slots(cluster: ClusterRepository) -> list[tuple[Slot, int | None]]:
    """All that there are, by name, each with the PID of the backend that uses it.

    Raises: CorruptData, StorageError.
    """
    found = ((slot, slot_user(cluster, slot.name)) for slot in stored_slots(cluster))
    return [(slot, user) for slot, user in found if user is not None or not slot.is_temporary]


def slot_user(cluster: ClusterRepository, name: str) -> int | None:
    """The PID of the backend that uses a slot; 0 if that cannot be made out, None if nobody does.

    Raises: StorageError.
    """
    holder = cluster.storage.holder(layout.slot_lock(cluster.system, name))
    if holder is None:
        return None
    pid = holder.get(BACKEND, "")
    return int(pid) if pid.isdecimal() else 0


def held_positions(cluster: ClusterRepository) -> dict[str, WalPosition]:
    """From where on each slot holds WAL. Raises: CorruptData, StorageError."""
    return {slot.name: slot.restart for slot, _ in read_slots(cluster) if slot.restart is not None}
