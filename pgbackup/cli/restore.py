"""`pgbackup restore`."""

import shlex
from typing import Annotated

import typer

from pgbackup.cli import options, recovery
from pgbackup.cli.amounts import default_workers
from pgbackup.cli.output import (
    format_size,
    print_facts,
    print_json,
    progress_bar,
    say,
    say_warning,
)
from pgbackup.restore.apart import check_apart
from pgbackup.restore.archivesetting import archiving_warning
from pgbackup.restore.decide import Decision, Wishes, decide, restore_command
from pgbackup.restore.plan import RestorePlan, plan_restore
from pgbackup.restore.recoverytarget import TargetWords, parse_timeline
from pgbackup.restore.run import RestoreOutcome, run_restore


def restore(
    label: Annotated[
        str | None,
        typer.Argument(
            metavar="LABEL",
            help="A label of `pgbackup list`, latest or oldest; default: the latest that leads to"
            " the target.",
        ),
    ] = None,
    *,
    directory: Annotated[
        str,
        typer.Option(
            "--pgdata", "-D", metavar="DIR", help="The data directory to be: new or empty."
        ),
    ],
    tablespace_mapping: Annotated[
        list[str] | None,
        typer.Option("--tablespace-mapping", "-T", metavar="OLD=NEW", help="Move a tablespace."),
    ] = None,
    jobs: options.Jobs = None,
    target_time: recovery.TargetTime = None,
    target_lsn: recovery.TargetLsn = None,
    target_xid: recovery.TargetXid = None,
    target_name: recovery.TargetName = None,
    target_immediate: recovery.TargetImmediate = False,
    target_latest: recovery.TargetLatest = False,
    target_timeline: recovery.TargetTimeline = None,
    target_action: recovery.Action = None,
    target_inclusive: recovery.Inclusive = None,
    standby: recovery.Standby = False,
    slot: recovery.Slot = None,
    host: recovery.Host = None,
    port: recovery.Port = None,
    username: recovery.User = None,
    dbname: recovery.Dbname = None,
    own_command: Annotated[
        str | None,
        typer.Option(
            "--restore-command",
            metavar="COMMAND",
            help="Another restore_command than wal-get from this repository.",
        ),
    ] = None,
    keep_standby_signal: Annotated[
        bool, typer.Option(help="Come up as a standby if the backup was taken from one.")
    ] = False,
    delta: Annotated[
        bool,
        typer.Option(
            "--delta",
            help="Restore over the same cluster, its server stopped: keep files that are right by"
            " checksum, rewrite the rest, remove what does not belong.",
        ),
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
    """Restore a backup into a new data directory, or with --delta into an existing one.

    Without a target the server stands at the end of the backup.
    """
    target = TargetWords(
        time=target_time,
        lsn=target_lsn,
        xid=target_xid,
        name=target_name,
        immediate=target_immediate,
        latest=target_latest,
        inclusive=target_inclusive,
    )
    cluster = options.open_repository(repo).only_cluster(options.parse_system(system))
    wishes = Wishes(
        own_command=restore_command(recovery.program_words(), cluster.storage.url),
        label=label,
        target=target.parse(),
        timeline=None if target_timeline is None else parse_timeline(target_timeline),
        action=target_action,
        restore_command=own_command,
        is_standby=standby,
        primary=recovery.primary(host, port, username, dbname, slot),
        keep_standby_signal=keep_standby_signal,
    )
    with progress_bar("reading WAL", options.wants_progress(progress, quiet)) as bar:
        decision = decide(cluster, wishes, bar, may_write=not plan)
    decided = plan_restore(
        decision.record,
        directory,
        tablespace_mapping or [],
        recovery=decision.recovery,
        delta=delta,
    )
    if plan:
        check_apart(decided, cluster.storage.features.local_path)
        _print_plan(decided, decision, as_json=json)
        return
    with progress_bar("restore", options.wants_progress(progress, quiet)) as bar:
        outcome = run_restore(decided, cluster, jobs=jobs or default_workers(), meter=bar)
    if json:
        document = _plan_document(decided, decision) | _outcome_document(outcome)
        print_json({"restore": document})
    elif not quiet:
        _say_result(decided, decision, outcome)
    for path in outcome.delta.unlinked if outcome.delta is not None and not quiet else ():
        say_warning(f'"{path}" was a symbolic link and is a directory now')
    warning = archiving_warning(
        decided.directory, cluster.storage.url, same_timeline=decision.recovery.signal is None
    )
    if warning is not None and not quiet:
        say_warning(warning)


def _say_result(plan: RestorePlan, decision: Decision, outcome: RestoreOutcome) -> None:
    say(
        f"restored backup {plan.record.label} into {plan.directory}:"
        f" {outcome.files} files, {format_size(outcome.size)}, {outcome.seconds:.1f} s"
    )
    if outcome.delta is not None:
        amounts = [outcome.delta.kept, outcome.delta.rewritten, outcome.delta.removed]
        words = [f"{each.files} files ({format_size(each.size)})" for each in amounts]
        say(f"kept {words[0]}, rewrote {words[1]}, removed {words[2]}")
    message = recovery.recovery_message(decision)
    if message is not None:
        say(message)
    say(f"to start it, type: pg_ctl -D {shlex.quote(plan.directory)} start")


def _print_plan(plan: RestorePlan, decision: Decision, *, as_json: bool) -> None:
    if as_json:
        print_json({"plan": _plan_document(plan, decision)})
        return
    wal = plan.wal_files
    facts = [
        ("backup", f"{plan.record.label} of PostgreSQL {plan.record.server_version_text}"),
        ("data directory", plan.directory),
        ("bytes", f"{plan.size} ({format_size(plan.size)})"),
        ("WAL segments", f"{len(wal)}: {wal[0]} to {wal[-1]}" if wal else "none"),
        *([("existing files", "kept if right by checksum, found out file by file")] * plan.delta),
        ("consistent at", f"{plan.record.stop_lsn} on timeline {plan.record.stop_timeline}"),
    ]
    facts += [
        (f"tablespace {each.oid}", f"{each.location} -> {each.directory or 'inside'}")
        for each in plan.tablespaces
    ]
    print_facts([*facts, *recovery.recovery_facts(decision)])


def _plan_document(plan: RestorePlan, decision: Decision) -> dict[str, object]:
    return {
        "label": plan.record.label,
        "directory": plan.directory,
        "delta": plan.delta,
        "size": plan.size,
        "wal": list(plan.wal_files),
        "consistent_lsn": str(plan.record.stop_lsn),
        "timeline": int(plan.record.stop_timeline),
        "tablespaces": [
            {"oid": each.oid, "location": each.location, "directory": each.directory}
            for each in plan.tablespaces
        ],
        **recovery.recovery_document(decision),
    }


def _outcome_document(outcome: RestoreOutcome) -> dict[str, object]:
    document: dict[str, object] = {"files": outcome.files, "seconds": round(outcome.seconds, 3)}
    if outcome.delta is not None:
        for name in ("kept", "rewritten", "removed"):
            amount = getattr(outcome.delta, name)
            document |= {f"{name}_files": amount.files, f"{name}_bytes": amount.size}
    return document
