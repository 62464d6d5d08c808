"""How missing WAL is told, by `pgbackup wal gaps` and `pgbackup wal fill`."""

from typing import Any

from pgbackup.cli.document import TIME_FORMAT
from pgbackup.cli.output import format_time, say, say_warning
from pgbackup.errors import ExitCode
from pgbackup.repo.coverage import Gaps, Stretch
from pgbackup.repo.inventory import Inventory
from pgbackup.repo.knownholes import KnownHole


def gaps_status(inventory: Inventory, gaps: Gaps) -> int:
    """The exit status for what is missing."""
    if gaps.holes or gaps.histories:
        return ExitCode.NOT_REACHABLE
    return ExitCode.WARNINGS if inventory.unread else ExitCode.OK


def warn_of_unread(inventory: Inventory) -> None:
    """Tell whose needs are not known."""
    for label in inventory.unread:
        say_warning(f"backup {label}: its record is damaged, so the WAL that it needs is not known")


def print_gaps(inventory: Inventory, gaps: Gaps) -> None:
    """One line for each stretch that is missing, with what is known of it; or that none is."""
    for hole in gaps.holes:
        print(f"timeline {hole.timeline}: {describe(hole)} missing")
        for known in inventory.explain(hole):
            print(f"  known since {format_time(known.found)}: {known.stretch}: {known.reason}")
    for timeline in gaps.histories:
        print(f"timeline {timeline}: {timeline.history_name} missing")
    if not (gaps.holes or gaps.histories):
        say("no WAL is missing")


def gaps_document(inventory: Inventory, gaps: Gaps) -> dict[str, Any]:
    """Positions as text, the end of a hole behind its last byte."""
    return {
        "holes": [
            {
                **stretch_document(each),
                "known": [_known_document(known) for known in inventory.explain(each)],
            }
            for each in gaps.holes
        ],
        "missing_histories": [each.history_name for each in gaps.histories],
    }


def _known_document(hole: KnownHole) -> dict[str, Any]:
    return {
        **stretch_document(hole.stretch),
        "reason": hole.reason,
        "found": hole.found.strftime(TIME_FORMAT),
        "is_accepted": hole.is_accepted,
    }


def stretch_document(stretch: Stretch) -> dict[str, Any]:
    """A stretch of segments, present or missing."""
    return {
        "timeline": int(stretch.timeline),
        "first": stretch.first.name,
        "last": stretch.last.name,
        "segments": stretch.segment_count,
        "start_lsn": str(stretch.start),
        "end_lsn": str(stretch.end),
    }


def describe(stretch: Stretch) -> str:
    """Names, number and positions of segments."""
    plural = "s" if stretch.segment_count > 1 else ""
    count = f"{stretch.segment_count} segment{plural}"
    return f"{stretch} ({count}, {stretch.start} to {stretch.end})"
