"""Every object name of a repository. No other module puts a name together.

pgbackup.json                        the format, and the repository's identity
serve-users.json                     who may connect to `serve`, and what for
<system identifier>/cluster.json     what must stay the same: major version, segment size
<system identifier>/backups-verified.json which backups were verified, and with what result
<system identifier>/cron.json        how the last run of `cron` ended
<system identifier>/wal-verified.json up to where the WAL archive was verified
<system identifier>/walindex/        what is noted of the segments; may be removed
<system identifier>/wal-holes.json   holes in it that a receiver knows of, and why
<system identifier>/slots/           replication slots of our own clients
<system identifier>/wal/             as in pg_wal: segments (plain or .zst), .history, .backup
<system identifier>/conflict/        WAL that came under a name bound to other content
<system identifier>/backups/<label>/ archives, indexes, backup_manifest, the record, and a pin
"""

import re
from typing import TYPE_CHECKING

from pgbackup.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

FORMAT = "pgbackup.json"
USERS = "serve-users.json"
MANIFEST = "backup_manifest"
RECORD = "backup.json"
PIN = "pin.json"
ALONE = "alone.json"

COMPRESSED_SUFFIX = ".zst"

_LABEL = r"(?!9999)[0-9]{8}T[0-9]{6}[FI]"  # datetime ends with 9999
_LABEL_TIME = "%Y%m%dT%H%M%S"  # UTC
_SYSTEM = r"[1-9][0-9]{0,19}"
_SLOT = r"[a-z0-9_]{1,63}"
_WAL_INDEX = r"[0-9A-F]{8}-[0-9a-f]{32}"
_ARCHIVE = r"(base|[0-9]+)\.tar(\.zst)?"
_BESIDE_ARCHIVES = r"(base|[0-9]+)\.index|[0-9A-F]{24}\.partial"


def parse_system(folder: str) -> int | None:
    """The system identifier that a folder at the top is named by, or None."""
    if re.fullmatch(_SYSTEM, folder) is None or int(folder) >= 1 << 64:
        return None
    return int(folder)


def system_folder(system: int) -> str:
    """The folder of one cluster."""
    return f"{system}/"


def cluster_object(system: int) -> str:
    """The object with what must stay the same in a cluster."""
    return f"{system}/cluster.json"


def wal_folder(system: int) -> str:
    """The folder of a cluster's WAL archive."""
    return f"{system}/wal/"


def wal_verified_object(system: int) -> str:
    """The object that remembers up to where the WAL archive was verified."""
    return f"{system}/wal-verified.json"


def wal_holes_object(system: int) -> str:
    """The object that says which holes a receiver had to leave in the WAL archive, and why."""
    return f"{system}/wal-holes.json"


def backups_verified_object(system: int) -> str:
    """The object that remembers which backups were verified."""
    return f"{system}/backups-verified.json"


def cron_object(system: int) -> str:
    """The object that remembers how the last run of `cron` ended."""
    return f"{system}/cron.json"


def cron_lock(system: int) -> str:
    """The lock that the one run of `cron` for a cluster holds."""
    return f"{system}/cron"


def wal_object(system: int, name: str, *, compressed: bool) -> str:
    """The object of a file of the WAL archive."""
    return f"{wal_folder(system)}{name}{COMPRESSED_SUFFIX if compressed else ''}"


def segment_object(system: int, name: str, compressed: bool) -> str:
    """The object of a WAL segment."""
    return wal_object(system, name, compressed=compressed)


def slots_folder(system: int) -> str:
    """The folder of the replication slots of those whom we send WAL to."""
    return f"{system}/slots/"


def slot_object(system: int, name: str) -> str:
    """One replication slot. Raises: UsageError."""
    return slot_lock(system, name) + ".json"


def slot_lock(system: int, name: str) -> str:
    """The lock that the one client which uses a slot holds. Raises: UsageError."""
    return slots_folder(system) + check_slot_name(name)


def check_slot_name(name: str) -> str:
    """Return the name. Raises: UsageError."""
    if not is_slot_name(name):
        raise UsageError(
            f'"{name}" is not the name of a replication slot',
            hint="It has 1 to 63 lower case letters, digits and underscores.",
        )
    return name


def is_slot_name(name: str) -> bool:
    """Tell whether PostgreSQL would have a slot of this name."""
    return re.fullmatch(_SLOT, name) is not None


def receiver_lock(system: int) -> str:
    """The lock that the one receiver of a cluster's WAL holds."""
    return f"{system}/receive-wal"


def expire_lock(system: int) -> str:
    """The lock that the one expire of a cluster holds."""
    return f"{system}/expire"


def receiver_positions(system: int) -> str:
    """The hidden file, no object, in which the receiver of this host publishes its positions."""
    return f"{system}/.receive-wal.positions"


def serve_lock(system: int, pid: int) -> str:
    """The lock that a process holds which serves a cluster."""
    return f"{system}/serve.{pid}"


def served_clients(system: int, pid: int) -> str:
    """The hidden file, no object, in which a process says whom it serves."""
    return f"{system}/.serve.{pid}.clients"


def served_by(name: str) -> int | None:
    """The process that such a file is of, by the last part of its name; None if it is none."""
    found = re.fullmatch(r"\.serve\.([0-9]+)\.clients", name)
    return None if found is None else int(found[1])


def wal_index_folder(system: int) -> str:
    """The folder of what is noted of a cluster's segments."""
    return f"{system}/walindex/"


def wal_index_object(system: int, timeline: str, digest: str) -> str:
    """The object of some notes of one timeline, named by their own checksum.

    timeline: 8 hexadecimal digits.
    digest:   of the content, 32 hexadecimal digits.
    """
    return f"{wal_index_folder(system)}{timeline}-{digest}"


def is_wal_index_object(system: int, name: str) -> bool:
    """Tell whether an object is named as wal_index_object does."""
    return re.fullmatch(re.escape(wal_index_folder(system)) + _WAL_INDEX, name) is not None


def conflict_object(system: int, name: str) -> str:
    """The object that keeps WAL which came under a name that is bound to other content."""
    return f"{system}/conflict/{name}"


def backups_folder(system: int) -> str:
    """The folder of all backups of a cluster."""
    return f"{system}/backups/"


def backup_folder(system: int, label: str) -> str:
    """The folder of one backup. Raises: UsageError."""
    return f"{backups_folder(system)}{check_label(label)}/"


def record_object(system: int, label: str) -> str:
    """The record of one backup: while it is there, the backup exists."""
    return backup_folder(system, label) + RECORD


def manifest_object(system: int, label: str) -> str:
    """The backup_manifest of one backup."""
    return backup_folder(system, label) + MANIFEST


def pin_object(system: int, label: str) -> str:
    """The pin of one backup: while it is there, the backup stays."""
    return backup_folder(system, label) + PIN


def alone_object(system: int, label: str) -> str:
    """While it is there, WAL after the backup is not missing: an expire let go of it."""
    return backup_folder(system, label) + ALONE


def backup_lock(system: int, label: str) -> str:
    """The lock that is held while a backup is being made or removed; by many, while it is read."""
    return backup_folder(system, label) + "lock"


def archive_name(oid: int | None, *, compressed: bool) -> str:
    """The archive of a tablespace within its backup's folder; None is the data directory."""
    plain = "base.tar" if oid is None else f"{oid}.tar"
    return plain + (COMPRESSED_SUFFIX if compressed else "")


def index_name(archive: str) -> str:
    """The member index of an archive, within the same folder.

    archive: with or without the suffix of compression.
    """
    return archive.removesuffix(COMPRESSED_SUFFIX).removesuffix(".tar") + ".index"


def is_archive_name(name: str) -> bool:
    """Tell whether an object in a backup's folder is named as an archive."""
    return re.fullmatch(_ARCHIVE, name) is not None


def is_backup_object(name: str) -> bool:
    """Tell whether an object in a backup's folder is named as a part of a backup is."""
    return (
        name in (RECORD, MANIFEST, PIN, ALONE)
        or is_archive_name(name)
        or re.fullmatch(_BESIDE_ARCHIVES, name) is not None
    )


def is_label(text: str) -> bool:
    """Tell whether a text is formed as a backup's label is."""
    if re.fullmatch(_LABEL, text) is None:
        return False
    try:
        label_time(text)
    except ValueError:
        return False
    return True


def check_label(label: str) -> str:
    """Return the label. Raises: UsageError."""
    if not is_label(label):
        raise UsageError(
            f'could not use backup label "{label}": it is not formed like 20261122T164200F',
            hint='Run "pgbackup list" to see the labels; "latest" and "oldest" work as well.',
        )
    return label


def format_label(kind: str, time: "datetime") -> str:
    """The label for a backup begun at a time.

    kind: "full" or "incremental", or the letter that stands for it.
    time: UTC.
    """
    return check_label(f"{time.strftime(_LABEL_TIME)}{kind[:1].upper()}")


def label_time(label: str) -> "datetime":
    """The time in a label: naive, meaning UTC. Raises: ValueError."""
    from datetime import datetime  # noqa: PLC0415 - the WAL hooks have no labels

    # Ten times as fast as strptime, and a thousand backups have several thousand objects.
    time = label[9:]
    return datetime(  # noqa: DTZ001 - compared with its like
        int(label[:4]), int(label[4:6]), int(label[6:8]),
        int(time[:2]), int(time[2:4]), int(time[4:6]),
    )  # fmt: skip
