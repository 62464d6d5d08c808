"""Judges whether WAL arrives: in the archive against the server, the archiver, the receiver."""

from datetime import UTC, datetime

from pgbackup.care.finding import Findings, critical, fine, warning
from pgbackup.care.serverview import Activity, ServerView
from pgbackup.care.status import NewestWal, RunningReceiver
from pgbackup.pg.lsn import Lsn, WalFileKind, WalFileName
from pgbackup.repo import layout
from pgbackup.repo.inventory import Inventory
from pgbackup.repo.repository import ClusterRepository

CLOCK_WARNING = 5.0
CLOCK_CRITICAL = 60.0
"""Seconds between two clocks."""

SEGMENTS_BEHIND = 2
"""Segments that the archive may lack at any moment: one being written, one being archived."""


def judge_arrival(
    server: ServerView,
    newest: NewestWal | None,
    receiver: RunningReceiver | None,
    max_age: float,
) -> Findings:
    """Compare the last WAL in the archive with where the server is.

    max_age: seconds after which WAL has to be in the archive.
    """
    at = server.identity.flushed
    if newest is None:
        yield critical(
            "wal_age",
            "there is no WAL in the archive",
            "start: pgbackup receive-wal, or set archive_command",
        )
        return
    reached = newest.segment.start if newest.is_partial else newest.segment.end
    if receiver is not None and receiver.positions is not None:
        reached = Lsn(max(reached, receiver.positions.flushed))
    elif newest.is_partial:
        reached = newest.segment.end  # at most; how much of it is valid is not known
    behind = at.lsn - reached
    age = (datetime.now(UTC) - newest.archived).total_seconds()
    if newest.segment.timeline < at.timeline:
        yield warning(
            "wal_timeline",
            f"the server is on timeline {at.timeline}, the archive ends on"
            f" {newest.segment.timeline}",
            "pgbackup receive-wal --once",
        )
    if behind > SEGMENTS_BEHIND * server.segment_size and age > max_age:
        yield critical(
            "wal_age",
            f"the archive is {behind} bytes of WAL behind the server; its last is {age:.0f} s old",
            "pgbackup receive-wal --once, and look into the server's log if it archives itself",
        )
    else:
        yield fine("wal_age", f"the last WAL in the archive is {age:.0f} s old, up to {reached}")


def judge_receiver(receiver: RunningReceiver | None) -> Findings:
    """A receiver that lives and receives nothing."""
    if receiver is not None and receiver.status == "waiting":
        yield warning(
            "receiver",
            f"the receiver (process {receiver.holder.get('pid', 'unknown')}) has no connection",
            "look at what it says: journalctl -u 'pgbackup-receive-wal@*'",
        )
    elif receiver is not None:
        yield fine("receiver", f"a receiver is {receiver.status}")


def judge_activity(server: ServerView, activity: Activity, own_slot: str | None) -> Findings:
    """The archiver, the clock, synchronous standbys, and slots of nobody."""
    if activity.last_failed is not None:
        yield critical(
            "archiver",
            f"archive_command has failed {activity.failed} times, last with {activity.last_failed}",
            "run it by hand as the server's user, in the data directory:"
            f" {server.setting('archive_command')}".replace(
                "%p", f"pg_wal/{activity.last_failed}"
            ).replace("%f", activity.last_failed),
        )
    else:
        yield fine("archiver", f"archive_command has archived {activity.archived} files")
    yield from judge_clock(activity.clock_ahead)
    names = server.setting("synchronous_standby_names")
    if names and activity.sync_standbys == 0:
        yield critical(
            "synchronous_standby_names",
            f'synchronous_standby_names is "{names}" and nobody of that name is connected:'
            " every commit waits",
            "start the standby or receiver of that name, or: ALTER SYSTEM RESET"
            " synchronous_standby_names; SELECT pg_reload_conf()",
        )
    for name in activity.idle_slots:
        if name == own_slot:  # which has findings of its own
            continue
        yield warning(
            "idle_slot",
            f'slot "{name}" holds WAL and nobody uses it',
            f"start its receiver, or: pgbackup slot drop {name}",
        )


def judge_clock(ahead: float) -> Findings:
    """ahead: seconds that the server's clock is ahead of this host's."""
    text = f"the server's clock is {ahead:+.1f} s from that of this host"
    fix = "keep both by NTP: timedatectl set-ntp true"
    if abs(ahead) >= CLOCK_CRITICAL:
        yield critical("clock", text, fix)
    elif abs(ahead) >= CLOCK_WARNING:
        yield warning("clock", text, fix)
    else:
        yield fine("clock", text)


def judge_gaps(inventory: Inventory) -> Findings:
    """WAL that is missing in the archive."""
    gaps = inventory.gaps()
    for hole in gaps.holes:
        yield critical(
            "wal_gaps",
            f"timeline {hole.timeline}: {hole} missing in the archive",
            "pgbackup wal fill, with the hosts that may still have it; else take a new backup",
        )
    for timeline in gaps.histories:
        yield critical(
            "wal_gaps",
            f"timeline {timeline}: {timeline.history_name} is missing",
            "pgbackup receive-wal --once, or copy it from the server's pg_wal with wal-push",
        )
    if not (gaps.holes or gaps.histories):
        yield fine("wal_gaps", "no WAL is missing since the oldest backup")


def judge_conflicts(cluster: ClusterRepository) -> Findings:
    """WAL that came under a name that has other content."""
    for name in cluster.archive.conflicts():
        located = cluster.storage.locate(layout.conflict_object(cluster.system, name))
        if WalFileName.parse(name).kind is WalFileKind.PARTIAL:
            yield warning(
                "wal_conflict",
                f"a promoted server archived {name}, of which a receiver has other bytes",
                "the next timeline begins with what counts of it, so unless the old one is wanted:"
                f" rm {located}",
            )
            continue
        yield critical(
            "wal_conflict",
            f"WAL came as {name} that differs from what is archived: two servers archive as one",
            f"stop one of them, then compare and remove {located}",
        )


def judge_identity(server: ServerView, cluster: ClusterRepository, systems: list[int]) -> Findings:
    """Whether the server is that whose backups are here.

    systems: all that the repository holds.
    """
    system, facts = server.identity.system_identifier, cluster.facts()
    if facts is None and systems:
        others = ", ".join(map(str, systems))
        yield critical(
            "system_identifier",
            f"the server is of system {system}, and the repository knows only {others}",
            "check -h, -p and -B; if the server is new here, type: pgbackup backup",
        )
    elif facts is not None and (facts.major, facts.wal_segment_size) != (
        server.major,
        server.segment_size,
    ):
        yield critical(
            "system_identifier",
            f"system {system} is known with PostgreSQL {facts.major} and segments of"
            f" {facts.wal_segment_size} bytes; the server has {server.major} and"
            f" {server.segment_size}",
            "use another repository for this server: -B DIR",
        )
    else:
        yield fine("system_identifier", f"the server is of system {system}")
