"""Where a receiver has to begin: what is there, what the slot holds, what the server writes."""

from collections.abc import Sequence

from pgbackup.errors import ProtocolViolation, Refused
from pgbackup.pg.history import TimelineHistory
from pgbackup.pg.lsn import Segment, Timeline, WalPosition, segments_between
from pgbackup.replication import client
from pgbackup.replication.client import SystemIdentity
from pgbackup.replication.transport import Transport
from pgbackup.replication.waldir import WalDirectory
from pgbackup.repo.coverage import Stretch


def start_position(
    transport: Transport,
    identity: SystemIdentity,
    directory: WalDirectory,
    slot: str | None,
    given_up: Sequence[Stretch] = (),
) -> WalPosition:
    """The position to stream from; its segment is received from the start.

    The files that are there decide. What the slot still holds and the archive has not comes
    first: a backup may have stored segments far ahead of what the receiver had reached.

    given_up: holes behind which the receiver goes on.

    Raises: Refused for a server that was left behind by a failover; NotFound if it has no such
    slot; StorageError, ServerError.
    """
    server_timeline = identity.flushed.timeline
    _refuse_older_timeline(server_timeline, directory)
    held = None
    if slot is not None:
        state = client.read_slot(transport, slot)
        held = None if state is None else state.restart
    there = directory.resume_position(
        server_history(transport, server_timeline),
        lambda segment: any(segment in hole for hole in given_up),
    )
    if there is None:
        return held or identity.flushed
    there = _behind(there, given_up, directory.segment.size)
    if held is not None and held.timeline == there.timeline:
        return _first_missing(held, there, directory)
    return there


def server_history(transport: Transport, timeline: Timeline) -> TimelineHistory:
    """The history of the server's timeline. Raises: ProtocolViolation, CorruptData."""
    return TimelineHistory.parse(timeline, fetch_history(transport, timeline))


def fetch_history(transport: Transport, timeline: Timeline) -> bytes:
    """The content of a history file; nothing for timeline 1. Raises: ProtocolViolation."""
    if timeline == 1:
        return b""
    content = client.timeline_history(transport, timeline)
    if content is None:
        raise ProtocolViolation(f"the server has lost the history of timeline {timeline}")
    return content


def _behind(position: WalPosition, holes: Sequence[Stretch], size: int) -> WalPosition:
    """The position itself, or where the holes end that it is in; also on a newer timeline."""
    for hole in sorted(holes, key=lambda each: (each.timeline, each.first.number)):
        number = position.lsn // size
        if hole.timeline >= position.timeline and hole.first.number <= number <= hole.last.number:
            position = WalPosition(hole.timeline, hole.end)
    return position


def _first_missing(held: WalPosition, there: WalPosition, directory: WalDirectory) -> WalPosition:
    found = directory.contents()
    size = directory.segment.size
    begin = Segment.containing(held.timeline, held.lsn, size).start
    for segment in segments_between(held.timeline, begin, there.lsn, size):
        if segment not in found.full:
            return WalPosition(segment.timeline, segment.start)
    return there


def _refuse_older_timeline(server: Timeline, directory: WalDirectory) -> None:
    newest = max((each.timeline for each in directory.contents().partial), default=server)
    if newest > server:
        raise Refused(
            f"could not receive WAL: the server is on timeline {server}, WAL of timeline {newest}"
            " was received before",
            hint="Connect to the server that was promoted; with several hosts in the connection"
            " string, add target_session_attrs=read-write.",
        )
