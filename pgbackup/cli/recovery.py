"""Options of `restore` that say where recovery goes, and their meaning."""

import os
import sys
from typing import Annotated

import typer

from pgbackup.cli import options
from pgbackup.cli.output import format_time
from pgbackup.restore.decide import Decision
from pgbackup.restore.moment import format_moment
from pgbackup.restore.recoverytarget import TargetAction, TargetKind
from pgbackup.restore.settings import Primary

TargetTime = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Recover to a time, 2026-11-22 16:42:00+01; without zone it is the local one.",
    ),
]
TargetLsn = Annotated[
    str | None, typer.Option(metavar="LSN", help="Recover to a WAL position, 0/3000028.")
]
TargetXid = Annotated[
    str | None, typer.Option(metavar="XID", help="Recover to the end of a transaction.")
]
TargetName = Annotated[str | None, typer.Option(metavar="NAME", help="Recover to a restore point.")]
TargetImmediate = Annotated[
    bool, typer.Option("--target-immediate", help="Recover to the end of the backup, no further.")
]
TargetLatest = Annotated[
    bool, typer.Option("--target-latest", help="Recover to the end of the archive.")
]
TargetTimeline = Annotated[
    str | None,
    typer.Option(metavar="TLI", help="latest (default), current (the backup's), or a number."),
]
Action = Annotated[
    TargetAction | None,
    typer.Option("--target-action", help="What the server does at the target; default: pause."),
]
Inclusive = Annotated[
    bool | None,
    typer.Option(
        "--target-inclusive/--target-exclusive",
        help="With the target itself (default), or just before it: for time, LSN and XID.",
    ),
]
Standby = Annotated[
    bool,
    typer.Option("--standby", "-R", help="Write what makes it a standby: of -h, -p, -U, -d."),
]
Slot = Annotated[
    str | None,
    typer.Option(
        "--slot",
        "-S",
        metavar="NAME",
        callback=options.checked_slot,
        help="The standby's slot on its primary.",
    ),
]


_OF_TARGETS = ("recovery_target_inclusive", "recovery_target_action")

Host = Annotated[
    str | None,
    typer.Option("--host", "-h", metavar="HOST", help="The standby's primary: host (PGHOST)."),
]
Port = Annotated[
    str | None, typer.Option("--port", "-p", metavar="PORT", help="Its port (PGPORT).")
]
User = Annotated[
    str | None,
    typer.Option("--username", "-U", metavar="USER", help="The standby's user there (PGUSER)."),
]
Dbname = Annotated[
    str | None,
    typer.Option(
        "--dbname", "-d", metavar="CONNINFO", help="Or all in a connection string of libpq."
    ),
]


def primary(
    host: str | None, port: str | None, user: str | None, dbname: str | None, slot: str | None
) -> Primary | None:
    """The server that is named, None if none is. Raises: UsageError."""
    settings: dict[str, str] = {}
    if dbname is not None and ("=" in dbname or "://" in dbname):
        from pgbackup.replication.libpq import parse_conninfo  # noqa: PLC0415 - slow to load

        settings = parse_conninfo(dbname)
    elif dbname is not None:
        settings["dbname"] = dbname
    given = {"host": host, "port": port, "user": user}
    settings |= {name: value for name, value in given.items() if value is not None}
    if not settings and slot is None:
        return None
    for name, variable in (("host", "PGHOST"), ("port", "PGPORT"), ("user", "PGUSER")):
        if variable in os.environ:
            settings.setdefault(name, os.environ[variable])
    return Primary(settings, slot or "")


def program_words() -> list[str]:
    """What starts this program, whatever the current directory."""
    name = os.path.abspath(sys.argv[0])  # noqa: PTH100 - no link is followed
    if os.path.basename(name) == "pgbackup" and os.access(name, os.X_OK):  # noqa: PTH119
        return [name]
    return [sys.executable, "-m", "pgbackup"]


def recovery_facts(decision: Decision) -> list[tuple[str, str]]:
    """What --plan says of recovery."""
    recovery, choice = decision.recovery, decision.choice
    if recovery.signal is None:
        return []
    facts = [("recovery", _recovery_text(decision))]
    if choice is not None:
        spans = choice.route.spans(choice.reached)
        facts += [("path", ", ".join(f"timeline {each.timeline} to {each.end}" for each in spans))]
        segments = list(choice.route.segments(choice.route.consistent, choice.reached))
        if segments and recovery.target.kind is not TargetKind.IMMEDIATE:
            text = f"{len(segments)}: {segments[0]} to {segments[-1]}"
            facts.append(("WAL from the archive", text))
        if choice.stop is not None:
            time = "" if choice.stop.time is None else f", {format_time(choice.stop.time)}"
            facts.append(("stops", f"{choice.stop}{time}"))
    else:
        facts.append(("reachable", "not checked: the restore_command is your own"))
    facts.append(("signal file", recovery.signal))
    settings = recovery.settings(decision.record.server_version // 10000)
    if not recovery.target.is_given:
        settings = {name: settings[name] for name in settings if name not in _OF_TARGETS}
    return facts + [(name, value) for name, value in settings.items() if value]


def recovery_message(decision: Decision) -> str | None:
    """What is said when a restore is done."""
    recovery = decision.recovery
    if recovery.signal is None:
        return None
    text = f"started, the server recovers: {_recovery_text(decision)}"
    if decision.choice is not None and decision.choice.stop is not None:
        text += f"; it stops {decision.choice.stop}"
    if recovery.target.is_given and recovery.action is TargetAction.PAUSE:
        text += '; look, then type "SELECT pg_wal_replay_resume()" to go on from there'
    return text


def recovery_document(decision: Decision) -> dict[str, object]:
    """The same for programs."""
    recovery, choice = decision.recovery, decision.choice
    stop = None if choice is None else choice.stop
    settings = recovery.settings(decision.record.server_version // 10000)
    return {
        "target": recovery.target.kind.value,
        "target_value": recovery.target.value or None,
        "signal_file": recovery.signal,
        "settings": settings,
        "restore_command": settings.get("restore_command"),
        "path": None
        if choice is None
        else [
            {"timeline": int(each.timeline), "start_lsn": str(each.start), "end_lsn": str(each.end)}
            for each in choice.route.spans(choice.reached)
        ],
        "stop": None
        if stop is None
        else {
            "lsn": str(stop.start),
            "reached_lsn": str(stop.reached),
            "xid": stop.xid,
            "name": stop.name,
            "time": None if stop.time is None else stop.time.isoformat().replace("+00:00", "Z"),
        },
    }


def _recovery_text(decision: Decision) -> str:
    recovery = decision.recovery
    if recovery.is_standby:
        if recovery.primary is None or not recovery.primary.conninfo:
            return "a standby, fed by the archive"
        return "a standby"
    target = recovery.target
    side = "" if target.is_inclusive else ", exclusive"
    if target.time is not None:
        return f"to {format_moment(target.time)} (UTC){side}"
    return f"to {target}{side}"
