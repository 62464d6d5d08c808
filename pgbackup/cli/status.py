"""`pgbackup status`."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from pgbackup.care.status import (
    ClusterStatus,
    NewestWal,
    RunningBackup,
    RunningReceiver,
    read_status,
)
from pgbackup.cli import options
from pgbackup.cli.document import (
    SLOT_HEADINGS,
    TIME_FORMAT,
    backup_document,
    slot_document,
    slot_row,
)
from pgbackup.cli.output import (
    format_age,
    format_size,
    format_time,
    print_facts,
    print_json,
    print_table,
    say_warning,
)
from pgbackup.errors import ExitCode
from pgbackup.replication.published import ReceiverPositions
from pgbackup.serve.standbys.clientsfile import ServedClient

RECEIVER = (
    "PID", "STATUS", "RECEIVE_START_LSN", "TLI", "WRITTEN_LSN", "FLUSHED_LSN", "RECEIVED_TLI",
    "LATEST_END_LSN", "LATEST_END_TIME", "LAG", "RATE",
)  # fmt: skip
BACKUPS = ("RUNNING", "COMMAND", "PID", "HOST", "SINCE", "STORED", "OF ABOUT")

Seen = dict[int, ReceiverPositions | None]


def status(
    *,
    watch: Annotated[
        float | None,
        typer.Option(
            "--watch",
            min=0.1,
            max=options.MAX_SECONDS,
            metavar="SECONDS",
            help="Look again and again.",
        ),
    ] = None,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    json: options.Json = False,
) -> int:
    """Show the receivers and backups that are running, and what was stored last.

    No server is asked. The rate is that since the receiver's start, or since the last look.
    """
    repository = options.open_repository(repo)
    wanted = options.parse_system(system)
    seen: Seen = {}
    while True:
        systems = repository.systems() if wanted is None else [repository.only_system(wanted)]
        found = [read_status(repository.cluster(each)) for each in systems]
        if json:
            print_json({"systems": [_document(each, seen) for each in found]})
        else:
            for each in found:
                _print(each, seen)
        damaged = [backup for each in found for backup in each.damaged]
        for backup in damaged:
            say_warning(f"backup {backup.label}: {backup.reason}")
        if watch is None:
            return ExitCode.WARNINGS if damaged else ExitCode.OK
        seen = {each.system: each.receiver.positions for each in found if each.receiver}
        print(flush=True)
        time.sleep(watch)


def _print(found: ClusterStatus, seen: Seen) -> None:
    now = datetime.now(UTC)
    facts = [("system identifier", str(found.system))]
    if found.facts is not None:
        facts.append(("server", f"PostgreSQL {found.facts.major}"))
    last, wal = found.last_backup, found.newest_wal
    if last is None:
        facts.append(("last backup", "none"))
    else:
        age = format_age(now - last.stop_time)
        text = f"{last.label}, finished {format_time(last.stop_time)}, {age} ago"
        facts.append(("last backup", text))
    facts.append(("newest WAL", "none" if wal is None else _wal_text(wal, now)))
    if found.receiver is None:
        facts.append(("receiver", "none is running"))
    print_facts(facts)
    if found.receiver is not None:
        print_table(RECEIVER, [_receiver_row(found.receiver, seen.get(found.system))])
    if found.backups:
        about = "-" if last is None else format_size(last.stored_size)
        print_table(BACKUPS, [_backup_row(each, about) for each in found.backups])
    if found.slots:
        print_table(SLOT_HEADINGS, [slot_row(*each) for each in found.slots])
    if found.clients:
        rows = [client_document(each) for each in found.clients]
        headings = tuple(name.upper() for name in rows[0])
        print_table(headings, [tuple(_cell(value) for value in row.values()) for row in rows])


def _wal_text(wal: NewestWal, now: datetime) -> str:
    unfinished = ", unfinished" if wal.is_partial else ""
    return f"{wal.segment}{unfinished}, written {format_age(now - wal.archived)} ago"


def _receiver_row(receiver: RunningReceiver, before: ReceiverPositions | None) -> tuple[str, ...]:
    now, lag, rate = receiver.positions, receiver.lag, receiver.rate(before)
    head = (receiver.holder.get("pid", "-"), receiver.status)
    if now is None:
        return (*head, *["-"] * (len(RECEIVER) - len(head)))
    return (
        *head,
        str(now.start),
        str(now.start_timeline),
        str(now.written),
        str(now.flushed),
        str(now.timeline),
        str(now.server_end) if now.server_end else "-",
        format_time(_moment(now.server_end_time)) if now.server_end else "-",
        "-" if lag is None else format_size(lag),
        "-" if rate is None else f"{format_size(int(rate))}/s",
    )


def _backup_row(backup: RunningBackup, about: str) -> tuple[str, ...]:
    holder = backup.holder
    words = [holder.get(key, "-") for key in ("command", "pid", "host", "since")]
    is_growing = holder.get("command") == "backup"
    return (backup.label, *words, format_size(backup.stored), about if is_growing else "-")


def _document(found: ClusterStatus, seen: Seen) -> dict[str, Any]:
    receivers = [] if found.receiver is None else [found.receiver]
    wal, last = found.newest_wal, found.last_backup
    return {
        "system_identifier": str(found.system),
        "server_major": None if found.facts is None else found.facts.major,
        "receivers": [_receiver_document(each, seen.get(found.system)) for each in receivers],
        "backups": [
            {"label": each.label, **_holder(each.holder), "stored_size": each.stored}
            for each in found.backups
        ],
        "damaged_backups": [each.label for each in found.damaged],
        "last_backup": None if last is None else backup_document(last),
        "newest_wal": None if wal is None else _wal_document(wal),
        "slots": [slot_document(*each) for each in found.slots],
        "clients": [client_document(each) for each in found.clients],
    }


def _receiver_document(
    receiver: RunningReceiver, before: ReceiverPositions | None
) -> dict[str, Any]:
    now, rate = receiver.positions, receiver.rate(before)
    document: dict[str, Any] = _holder(receiver.holder) | {"status": receiver.status}
    if now is None:
        return document
    return document | {
        "receive_start_lsn": str(now.start),
        "receive_start_tli": int(now.start_timeline),
        "written_lsn": str(now.written),
        "flushed_lsn": str(now.flushed),
        "received_tli": int(now.timeline),
        "latest_end_lsn": str(now.server_end) if now.server_end else None,
        "latest_end_time": _time(_moment(now.server_end_time)) if now.server_end else None,
        "lag_bytes": receiver.lag,
        "rate_bytes_per_second": None if rate is None else round(rate),
    }


def _wal_document(wal: NewestWal) -> dict[str, Any]:
    return {
        "name": wal.segment.name + (".partial" if wal.is_partial else ""),
        "timeline": int(wal.segment.timeline),
        "start_lsn": str(wal.segment.start),
        "is_partial": wal.is_partial,
        "written_time": _time(wal.archived),
        "age_seconds": round((datetime.now(UTC) - wal.archived).total_seconds(), 1),
    }


def _holder(holder: Mapping[str, str]) -> dict[str, Any]:
    pid = holder.get("pid", "")
    return {
        "pid": int(pid) if pid.isdecimal() else None,
        "host": holder.get("host"),
        "since": holder.get("since"),
        "command": holder.get("command"),
    }


def client_document(client: ServedClient) -> dict[str, Any]:
    """The columns of pg_stat_replication; lags are seconds."""
    now = client.status
    positions = {
        name: str(lsn) if lsn else None
        for name, lsn in {
            "sent_lsn": now.sent_lsn,
            "write_lsn": now.write_lsn,
            "flush_lsn": now.flush_lsn,
            "replay_lsn": now.replay_lsn,
        }.items()
    }
    lags = {
        name: None if lag is None else lag / 1_000_000
        for name, lag in {
            "write_lag": now.write_lag,
            "flush_lag": now.flush_lag,
            "replay_lag": now.replay_lag,
        }.items()
    }
    return {
        "pid": now.pid,
        "usename": now.usename,
        "application_name": now.application_name,
        "client_addr": now.client_addr,
        "client_port": now.client_port,
        "backend_start": _time(_moment(now.backend_start)),
        "state": now.state.value,
        **positions,
        **lags,
        "sync_priority": client.sync_priority,
        "sync_state": client.sync_state.value,
        "reply_time": None if now.reply_time is None else _time(_moment(now.reply_time)),
    }


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC)


def _time(moment: datetime) -> str:
    return moment.strftime(TIME_FORMAT)
