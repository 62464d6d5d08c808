"""How the last run of `cron` ended, remembered in the repository for `check`. May be removed."""

import json
from datetime import datetime
from typing import NamedTuple

from pgbackup.errors import CorruptData, NotFound
from pgbackup.repo import layout
from pgbackup.repo.fields import Fields
from pgbackup.repo.repository import ClusterRepository

FORMAT = 1

_LIMIT = 1 << 20  # bytes


class LastRun(NamedTuple):
    """When a run ended, and how.

    summary:    its one line.
    catches_up: it also receives WAL.
    """

    time: datetime
    exit_code: int
    summary: str
    catches_up: bool


def read_last_run(cluster: ClusterRepository) -> LastRun | None:
    """What was remembered; None if there is nothing to understand. Raises: StorageError."""
    name = layout.cron_object(cluster.system)
    try:
        fields = Fields.parse(cluster.storage.read(name, _LIMIT), name)
        return LastRun(
            fields.time("time"),
            fields.number("exit_code"),
            fields.text("summary"),
            fields.truth("catches_up"),
        )
    except (NotFound, CorruptData):
        return None


def put_last_run(cluster: ClusterRepository, last: LastRun) -> None:
    """Remember a run. Raises: StorageError."""
    document = {
        "format": FORMAT,
        "time": last.time.isoformat(),
        "exit_code": int(last.exit_code),
        "summary": last.summary,
        "catches_up": last.catches_up,
    }
    with cluster.storage.writer(layout.cron_object(cluster.system)) as writer:
        writer.write((json.dumps(document, indent=2) + "\n").encode())
        writer.commit(replace=True)
