"""`pgbackup restore`."""

import shlex
from typing import Annotated

import typer

from pgbackup.cli import options
from pgbackup.cli.amounts import default_workers
from pgbackup.cli.output import format_size, print_facts, print_json, progress_bar, say
from pgbackup.restore.plan import RestorePlan, plan_restore
from pgbackup.restore.run import RestoreOutcome, run_restore


def restore(
    label: Annotated[
        str, typer.Argument(help="A label of `pgbackup list`, latest or oldest.")
    ] = "latest",
    *,
    directory: Annotated[
        str, typer.Option("--pgdata", "-D", help="The data directory to be: new, or empty.")
    ],
    tablespace_mapping: Annotated[
        list[str] | None,
        typer.Option("--tablespace-mapping", "-T", metavar="OLD=NEW", help="Move a tablespace."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, max=64, help="Cores to keep busy; default: all."),
    ] = None,
    restore_command: Annotated[
        str | None,
        typer.Option(help="Let the server go on with this restore_command after the backup."),
    ] = None,
    keep_standby_signal: Annotated[
        bool, typer.Option(help="Come up as a standby if the backup was taken from one.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would happen and touch nothing.")
    ] = False,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    progress: options.ProgressWanted = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Restore a backup into a new data directory, ready for the server to start."""
    cluster = options.open_repository(repo).only_cluster(options.parse_system(system))
    record = cluster.catalog.get(label)
    decided = plan_restore(
        record,
        directory,
        tablespace_mapping or [],
        restore_command=restore_command,
        keep_standby_signal=keep_standby_signal,
    )
    if plan:
        _print_plan(decided, as_json=json)
        return
    with progress_bar("restore", options.wants_progress(progress, quiet)) as bar:
        outcome = run_restore(decided, cluster, jobs=jobs or default_workers(), meter=bar)
    if json:
        print_json({"restore": _plan_document(decided) | _outcome_document(outcome)})
    elif not quiet:
        say(
            f"restored backup {record.label} into {decided.directory}:"
            f" {outcome.files} files, {format_size(outcome.size)}, {outcome.seconds:.1f} s"
        )
        say(f"to start it, type: pg_ctl -D {shlex.quote(decided.directory)} start")


def _print_plan(plan: RestorePlan, *, as_json: bool) -> None:
    if as_json:
        print_json({"plan": _plan_document(plan)})
        return
    wal = plan.wal_files
    facts = [
        ("backup", f"{plan.record.label} of PostgreSQL {plan.record.server_version_text}"),
        ("data directory", plan.directory),
        ("bytes", f"{plan.size} ({format_size(plan.size)})"),
        ("WAL segments", f"{len(wal)}: {wal[0]} to {wal[-1]}" if wal else "none"),
        ("consistent at", f"{plan.record.stop_lsn} on timeline {plan.record.stop_timeline}"),
    ]
    facts += [
        (f"tablespace {each.oid}", f"{each.location} -> {each.directory or 'inside'}")
        for each in plan.tablespaces
    ]
    if plan.restore_command is not None:
        facts.append(("restore_command", plan.restore_command))
    print_facts(facts)


def _plan_document(plan: RestorePlan) -> dict[str, object]:
    return {
        "label": plan.record.label,
        "directory": plan.directory,
        "size": plan.size,
        "wal": list(plan.wal_files),
        "consistent_lsn": str(plan.record.stop_lsn),
        "timeline": int(plan.record.stop_timeline),
        "tablespaces": [
            {"oid": each.oid, "location": each.location, "directory": each.directory}
            for each in plan.tablespaces
        ],
        "restore_command": plan.restore_command,
    }


def _outcome_document(outcome: RestoreOutcome) -> dict[str, object]:
    return {"files": outcome.files, "seconds": round(outcome.seconds, 3)}
