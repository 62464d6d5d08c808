"""`pgbackup wal`: its commands; of them list, what the archive holds, and gaps, what is missing."""

from typing import Any

import typer

from pgbackup.cli import options
from pgbackup.cli.gaps import (
    gaps_document,
    gaps_status,
    print_gaps,
    stretch_document,
    warn_of_unread,
)
from pgbackup.cli.output import format_size, print_json, print_table, say
from pgbackup.cli.wal_fill import fill_wal
from pgbackup.cli.wal_verify import verify_wal
from pgbackup.errors import ExitCode
from pgbackup.repo.coverage import TimelineWal
from pgbackup.repo.inventory import read_inventory, read_timelines

HEADINGS = ("TLI", "FIRST", "LAST", "FROM", "UP TO", "SEGMENTS", "STORED", "MISSING", "HISTORY")


def list_wal(
    *,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    json: options.Json = False,
) -> int:
    """List the WAL in the archive by timeline."""
    cluster = options.open_repository(repo).only_cluster(options.parse_system(system))
    timelines = read_timelines(cluster)
    if json:
        print_json(
            {
                "system_identifier": str(cluster.system),
                "timelines": [_timeline_document(each) for each in timelines],
            }
        )
        return ExitCode.OK
    if not timelines:
        say("there is no WAL in the archive")
        return ExitCode.OK
    print_table(HEADINGS, [_row(each) for each in timelines])
    for each in timelines:
        for segment in each.partial:
            print(f"{segment}.partial: unfinished; how much of it is valid is not known")
    return ExitCode.OK


def list_gaps(
    *,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    json: options.Json = False,
) -> int:
    """Find WAL that is missing between the oldest backup and the newest segment.

    Without a backup, it begins with the oldest segment. All timelines are followed.
    """
    cluster = options.open_repository(repo).only_cluster(options.parse_system(system))
    inventory = read_inventory(cluster)
    gaps = inventory.gaps()
    if json:
        print_json({"system_identifier": str(cluster.system), **gaps_document(inventory, gaps)})
    else:
        print_gaps(inventory, gaps)
    warn_of_unread(inventory)
    return gaps_status(inventory, gaps)


def _row(wal: TimelineWal) -> tuple[str, ...]:
    whole = wal.whole
    ends = ("-", "-", "-", "-")
    if whole is not None:
        ends = (whole.first.name, whole.last.name, str(whole.start), str(whole.end))
    missing = sum(hole.segment_count for hole in wal.holes)
    history = "yes" if wal.has_history else "MISSING" if wal.timeline > 1 else "-"
    return (
        str(wal.timeline),
        *ends,
        str(wal.segment_count),
        format_size(wal.stored_size),
        str(missing) if missing else "-",
        history,
    )


def _timeline_document(wal: TimelineWal) -> dict[str, Any]:
    return {
        "timeline": int(wal.timeline),
        "segments": wal.segment_count,
        "stored_size": wal.stored_size,
        "has_history": wal.has_history,
        "stretches": [stretch_document(each) for each in wal.stretches],
        "holes": [stretch_document(each) for each in wal.holes],
        "partial": [{"name": f"{segment}.partial", "valid_size": None} for segment in wal.partial],
    }


wal = typer.Typer(help="Look after the WAL archive: list, gaps, verify, fill.")
wal.command("list")(list_wal)
wal.command("gaps")(list_gaps)
wal.command("verify")(verify_wal)
wal.command("fill")(fill_wal)
