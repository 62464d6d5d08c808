"""How missing WAL is told, by `pgbackup wal gaps` and `pgbackup wal fill`."""

from typing import Any

from pgbackup.cli.output import say, say_warning
from pgbackup.errors import ExitCode
from pgbackup.repo.coverage import Gaps, Stretch
from pgbackup.repo.inventory import Inventory


def gaps_status(inventory: Inventory, gaps: Gaps) -> int:
    """The exit status for what is missing."""
    if gaps.holes or gaps.histories:
        return ExitCode.NOT_REACHABLE
    return ExitCode.WARNINGS if inventory.unread else ExitCode.OK


def warn_of_unread(inventory: Inventory) -> None:
    """Tell whose needs are not known."""
    for label in inventory.unread:
        say_warning(f"backup {label}: its record is damaged, so the WAL that it needs is not known")


def print_gaps(gaps: Gaps) -> None:
    """One line for each stretch that is missing, or that none is."""
    for hole in gaps.holes:
        print(f"timeline {hole.timeline}: {describe(hole)} missing")
    for timeline in gaps.histories:
        print(f"timeline {timeline}: {timeline.history_name} missing")
    if not (gaps.holes or gaps.histories):
        say("no WAL is missing")


def gaps_document(gaps: Gaps) -> dict[str, Any]:
    """Positions as text, the end of a hole behind its last byte."""
    return {
        "holes": [stretch_document(each) for each in gaps.holes],
        "missing_histories": [each.history_name for each in gaps.histories],
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
