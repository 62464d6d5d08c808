"""`pgbackup expire`."""

import gc
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from pgbackup.cli import options
from pgbackup.cli.document import TIME_FORMAT
from pgbackup.cli.output import format_size, print_json, print_table, say, say_warning
from pgbackup.errors import ExitCode
from pgbackup.pg.lsn import WalFileKind
from pgbackup.repo.retention.expire import ExpireOutcome, check_policy, plan_expire, run_expire
from pgbackup.repo.retention.plan import BackupFate, RetentionPlan, WalFate
from pgbackup.repo.retention.policy import Policy, parse_tiers

HEADINGS = ("", "WHAT", "SIZE", "WAL AFTER IT", "WHY")


def expire(
    *,
    keep_full: options.KeepFull = None,
    keep_days: options.KeepDays = None,
    keep: options.Keep = None,
    pitr_days: options.PitrDays = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what stays and what goes, and why.")
    ] = False,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> int:
    """Remove backups and WAL that no policy keeps.

    A backup stays if any of the policies keeps it, if it is pinned, or if it is the newest. WAL
    after a backup stays with those of --keep-full and --keep-days; with --pitr-days, only from
    where its days begin. A backup without WAL after it can be restored as it was at its end.
    """
    policy = Policy(keep_full, keep_days, () if keep is None else parse_tiers(keep), pitr_days)
    check_policy(policy)
    cluster = options.open_repository(repo).only_cluster(options.parse_system(system))
    now = datetime.now(UTC)
    gc.disable()  # a list of all WAL has no cycles, and looking for some takes a fifth of the time
    if dry_run:
        plan = plan_expire(cluster, policy, now)
        outcome = ExpireOutcome(plan, (), (), 0, (), plan.notes)
    else:
        outcome = run_expire(cluster, policy, now)
        plan = outcome.plan
    if json:
        print_json(_document(outcome, dry_run=dry_run))
    elif not quiet:
        _print(plan)
        say(_summary(outcome, dry_run=dry_run))
    for note in outcome.notes:
        say_warning(note)
    return ExitCode.WARNINGS if outcome.notes else ExitCode.OK


def _print(plan: RetentionPlan) -> None:
    rows = [_backup_row(each) for each in plan.backups]
    rows += [_wal_row(each) for each in plan.wal]
    if rows:
        print_table(HEADINGS, rows)


def _backup_row(fate: BackupFate) -> tuple[str, ...]:
    after = ("yes" if fate.has_wal_after else "alone") if fate.stays else "-"
    size = format_size(fate.record.stored_size)
    why = "; ".join(fate.reasons)
    return (_verdict(fate.stays), f"backup {fate.record.label}", size, after, why)


def _wal_row(fate: WalFate) -> tuple[str, ...]:
    names = [_plain(file.name) for file in fate.files]
    what = f"WAL {names[0]}"
    if len(names) > 1:
        what += f" to {names[-1]} ({len(names)} files)"
    return (_verdict(fate.stays), what, format_size(fate.size), "", fate.reason)


def _verdict(stays: bool) -> str:
    return "stays" if stays else "goes"


def _plain(name: str) -> str:
    return name.rpartition("/")[2]


def _summary(outcome: ExpireOutcome, *, dry_run: bool) -> str:
    plan = outcome.plan
    if dry_run:
        backups, files, size = len(plan.going_backups()), plan.going_files(), plan.going_size()
        done = f"would remove {backups} backups and {len(files)} files of WAL"
        return f"{done}, {format_size(size)}"
    done = f"removed {len(outcome.backups)} backups and {len(outcome.files)} files of WAL"
    if outcome.leftovers:
        done += f" and {len(outcome.leftovers)} leftovers"
    return f"{done}, {format_size(outcome.size)}"


def _document(outcome: ExpireOutcome, *, dry_run: bool) -> dict[str, Any]:
    plan = outcome.plan
    return {
        "is_dry_run": dry_run,
        "backups": [_backup_document(each) for each in plan.backups],
        "wal": [_wal_document(each) for each in plan.wal],
        "size_to_free": plan.going_size(),
        "removed": {
            "backups": list(outcome.backups),
            "wal_files": len(outcome.files),
            "leftovers": list(outcome.leftovers),
            "size": outcome.size,
        },
        "notes": list(outcome.notes),
    }


def _backup_document(fate: BackupFate) -> dict[str, Any]:
    return {
        "label": fate.record.label,
        "stop_time": fate.record.stop_time.strftime(TIME_FORMAT),
        "stays": fate.stays,
        "has_wal_after": fate.stays and fate.has_wal_after,
        "reasons": list(fate.reasons),
        "stored_size": fate.record.stored_size,
    }


def _wal_document(fate: WalFate) -> dict[str, Any]:
    return {
        "timeline": int(fate.files[0].timeline),
        "first": _plain(fate.files[0].name),
        "last": _plain(fate.files[-1].name),
        "files": len(fate.files),
        "is_history": fate.files[0].kind is WalFileKind.HISTORY,
        "size": fate.size,
        "stays": fate.stays,
        "reason": fate.reason,
    }
