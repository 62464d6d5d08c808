"""`pgbackup wal verify`."""

from typing import Annotated, Any

import typer

from pgbackup.archiving.scan import Damage, ScannedStretch, WalScan
from pgbackup.cli import options
from pgbackup.cli.output import print_json, progress_bar, say
from pgbackup.errors import ExitCode


def verify_wal(
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Read everything, not only what is new.")
    ] = False,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    progress: options.ProgressWanted = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> int:
    """Check that the records of the archived WAL chain without damage.

    What was right is remembered, so that the next run reads only what is new.
    """
    cluster = options.open_repository(repo).only_cluster(options.parse_system(system))
    scan = WalScan(cluster, every=every)
    with progress_bar("wal verify", options.wants_progress(progress, quiet)) as bar:
        bar.begin(scan.size)
        scanned = scan.run(bar.advance)
    damages = [damage for each in scanned for damage in each.damages]
    if json:
        print_json(
            {
                "system_identifier": str(cluster.system),
                "stretches": [_document(each) for each in scanned],
                "damages": [_damage_document(each) for each in damages],
            }
        )
    else:
        for damage in damages:
            print(
                f"timeline {damage.segment.timeline}: segment {damage.segment} is damaged"
                f" behind {damage.lsn}: {damage.reason}"
            )
        if not quiet:
            _tell(scanned)
    return ExitCode.DAMAGED if damages else ExitCode.OK


def _tell(scanned: list[ScannedStretch]) -> None:
    if not scanned:
        say("there is no WAL in the archive")
    for each in scanned:
        verdict = f"{len(each.damages)} DAMAGED" if each.damages else "ok"
        through = "no record" if each.through is None else str(each.through)
        say(
            f"timeline {each.stretch.timeline} from {each.stretch.start}: {verdict};"
            f" verified through {through}, {each.checked} segments read now"
        )


def _document(scanned: ScannedStretch) -> dict[str, Any]:
    return {
        "timeline": int(scanned.stretch.timeline),
        "first": scanned.stretch.first.name,
        "last": scanned.stretch.last.name,
        "verified_through": None if scanned.through is None else str(scanned.through),
        "segments_read": scanned.checked,
        "is_good": not scanned.damages,
    }


def _damage_document(damage: Damage) -> dict[str, Any]:
    return {
        "timeline": int(damage.segment.timeline),
        "segment": damage.segment.name,
        "lsn": str(damage.lsn),
        "reason": damage.reason,
    }
