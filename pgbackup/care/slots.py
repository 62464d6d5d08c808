"""Judges replication slots: the one that keeps WAL for us, and what is known of our own clients."""

from pgbackup.care.finding import Findings, critical, fine, warning
from pgbackup.errors import CorruptData
from pgbackup.replication.slotstate import SlotState, WalStatus
from pgbackup.repo.repository import ClusterRepository
from pgbackup.repo.slots import read_slots
from pgbackup.serve.entry.users import read_known_users

NEARLY = 0.2
"""The share of max_slot_wal_keep_size that is left when it gets serious."""


def judge_clients(cluster: ClusterRepository) -> Findings:
    """Whether what is stored of those whom `serve` serves can be read."""
    try:
        read_slots(cluster)
    except CorruptData as error:
        yield critical("client_slots", f"{error.message}; nothing is expired", error.hint or "")
    try:
        read_known_users(cluster.storage)
    except CorruptData as error:
        yield critical(
            "serve_users",
            f"{error.message}; serve lets nobody in",
            "remove that file, and add its users again: pgbackup serve-user add",
        )


def judge_no_slot(name: str) -> Findings:
    """The server has none of that name."""
    yield critical(
        "slot",
        f'there is no replication slot "{name}": the server keeps no WAL for us',
        f"pgbackup slot create --reserve-wal {name}",
    )


def judge_slot(slot: SlotState, keep_size: str, *, has_timer: bool) -> Findings:
    """What one slot is in danger of.

    keep_size: max_slot_wal_keep_size, as the server shows it.
    has_timer: it is idle between the runs of `cron`.
    """
    drop = f"pgbackup slot drop {slot.name}; pgbackup slot create --reserve-wal {slot.name}"
    name = f'slot "{slot.name}"'
    if slot.kind != "physical":
        yield critical("slot", f"{name} is {slot.kind}: it cannot hold WAL for us", drop)
        return
    if slot.is_lost:
        yield critical(
            "slot",
            f"{name} is lost: the server removed WAL that it should have held",
            f"{drop}; then pgbackup wal fill, and pgbackup backup",
        )
        return
    if slot.status is WalStatus.UNRESERVED:
        yield critical(
            "slot",
            f"{name} will be lost at the next checkpoint: it holds {slot.retained} bytes",
            f"pgbackup receive-wal -S {slot.name} --once, at once",
        )
    elif slot.safe_size is not None and slot.safe_size < NEARLY * (slot.safe_size + slot.retained):
        yield warning(
            "slot",
            f"{name} holds {slot.retained} bytes; after {slot.safe_size} more it can be lost",
            f"pgbackup receive-wal -S {slot.name} --once, or raise max_slot_wal_keep_size",
        )
    elif slot.is_active is False and not has_timer:
        yield warning(
            "slot",
            f"{name} is not in use; the server keeps {slot.retained} bytes of WAL for it",
            f"start its receiver: pgbackup receive-wal -S {slot.name}",
        )
    else:
        yield fine("slot", f"{name} holds {slot.retained} bytes")
    yield from _judge_keep_size(keep_size)


def _judge_keep_size(keep_size: str) -> Findings:
    if keep_size == "-1":
        yield warning(
            "max_slot_wal_keep_size",
            "max_slot_wal_keep_size is -1: while nobody receives, the slot fills the server's disk",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '20GB'; SELECT pg_reload_conf()",
        )
