"""Which backups were verified, when, and with what result, remembered in the repository.

Only a convenience: it may be removed, then every backup is verified again.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from pgbackup.errors import CorruptData, NotFound
from pgbackup.repo import layout
from pgbackup.repo.fields import Fields
from pgbackup.repo.record import BackupRecord
from pgbackup.repo.repository import ClusterRepository

FORMAT = 1

_LIMIT = 16 << 20  # bytes; one backup takes about 200


class Verification(NamedTuple):
    """The last check of a backup. problems: how many it had."""

    time: datetime
    problems: int


def read_verifications(cluster: ClusterRepository) -> Mapping[str, Verification]:
    """What was remembered, by label; nothing if it cannot be understood. Raises: StorageError."""
    name = layout.backups_verified_object(cluster.system)
    try:
        fields = Fields.parse(cluster.storage.read(name, _LIMIT), name)
        if fields.number("format") != FORMAT:
            return {}
        return {
            each.text("label"): Verification(each.time("time"), each.number("problems"))
            for each in fields.groups("backups")
        }
    except (NotFound, CorruptData):
        return {}


def put_verification(
    cluster: ClusterRepository, record: BackupRecord, verification: Verification
) -> None:
    """Remember a result, and forget those of backups that are gone. Raises: StorageError."""
    there = {each.label for each in cluster.catalog.list()}
    known = dict(read_verifications(cluster)) | {record.label: verification}
    document = {
        "format": FORMAT,
        "backups": [
            {"label": label, "time": each.time.isoformat(), "problems": each.problems}
            for label, each in sorted(known.items())
            if label in there
        ],
    }
    with cluster.storage.writer(layout.backups_verified_object(cluster.system)) as writer:
        writer.write((json.dumps(document, indent=2) + "\n").encode())
        writer.commit(replace=True)
