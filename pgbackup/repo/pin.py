"""A pin: the wish that a backup stays whatever the retention policy says, and why."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from pgbackup.errors import CorruptData
from pgbackup.repo.fields import Fields


@dataclass(frozen=True, slots=True)
class Pin:
    """A pin of one backup.

    since: None if the stored pin cannot be read; it counts all the same.
    """

    reason: str
    since: datetime | None


def encode_pin(pin: Pin) -> bytes:
    """The pin as it is stored."""
    since = "" if pin.since is None else pin.since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (json.dumps({"reason": pin.reason, "since": since}, indent=2) + "\n").encode()


def decode_pin(data: bytes, name: str) -> Pin:
    """Read a stored pin; what cannot be read is a pin without its reason.

    name: for messages.
    """
    try:
        fields = Fields.parse(data, name)
        return Pin(fields.text("reason"), fields.time("since"))
    except CorruptData:
        return Pin("unreadable", None)
