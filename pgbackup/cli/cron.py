"""`pgbackup cron`."""

from typing import Annotated, Any

import typer

from pgbackup.archiving.receiver.heldslot import Servers, SlotOptions
from pgbackup.archiving.receiver.receive import ReceiveOptions
from pgbackup.backup.request import BackupRequest
from pgbackup.care.cron import CronReport, CronRequest, run_cron
from pgbackup.care.schedule import parse_schedule
from pgbackup.cli import connection, options
from pgbackup.cli.amounts import default_workers, parse_compression, parse_rate
from pgbackup.cli.backup import Checkpoint
from pgbackup.cli.output import print_json, say
from pgbackup.errors import ExitCode, Locked, UsageError
from pgbackup.repo.retention.policy import Policy, parse_tiers
from pgbackup.storage.registry import open_storage
from pgbackup.stream.progress import SilentMeter


def cron(
    *,
    host: connection.Host = None,
    port: connection.Port = None,
    username: connection.User = None,
    dbname: connection.Dbname = None,
    no_password: connection.NoPassword = False,
    no_server: Annotated[
        bool, typer.Option("--no-server", help="Receive nothing and take no backup.")
    ] = False,
    no_receive: Annotated[
        bool, typer.Option("--no-receive", help="Receive no WAL: the server archives it.")
    ] = False,
    slot: Annotated[
        str | None,
        typer.Option(
            "--slot",
            "-S",
            metavar="NAME",
            callback=options.checked_slot,
            help="Replication slot that keeps WAL for us; made if missing.",
        ),
    ] = None,
    full_every: Annotated[
        str | None,
        typer.Option(metavar="SPAN|DAY", help="When a backup is due: 6h, 1d, 2w, or sunday."),
    ] = None,
    keep_full: options.KeepFull = None,
    keep_days: options.KeepDays = None,
    keep: options.Keep = None,
    pitr_days: options.PitrDays = None,
    checkpoint: Annotated[
        Checkpoint, typer.Option("--checkpoint", "-c", help="How the backup's checkpoint is done.")
    ] = Checkpoint.SPREAD,
    max_rate: options.MaxRate = None,
    compress: Annotated[
        str,
        typer.Option(
            "--compress", "-Z", metavar="METHOD", help="none or zstd[:level=N][,workers=N]."
        ),
    ] = "zstd",
    jobs: options.Jobs = None,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what failed.")] = False,
    json: options.Json = False,
) -> int:
    """Do what is due: receive WAL, take a backup, verify what is new, expire, index WAL.

    Started as often as you like: a run does what is due and no more. If the last run is still
    going on, this one ends at once with 0. A step that fails does not keep the others from
    running; the exit status is that of the first that failed.
    """
    if no_server and (full_every is not None or slot is not None):
        raise UsageError("--full-every and -S (--slot) need a server: leave --no-server out")
    compression = parse_compression(compress)
    connect = servers = None
    if not no_server:
        connector = connection.Connector(
            host, port, username, dbname, never_ask=no_password, ask=False
        )
        connect, servers = connector.connect, Servers(connector.connect_quietly, list)
    receive = ReceiveOptions(
        slot=None if slot is None else SlotOptions(slot, tells_blindness=False),
        create_slot=slot is not None,
        exists_ok=True,
        once=True,
        loop=False,
        level=None if compression is None else compression.level,
    )
    request = CronRequest(
        connect=connect,
        servers=servers,
        receive=None if no_receive else receive,
        full_every=None if full_every is None else parse_schedule(full_every),
        backup=BackupRequest(
            comment="pgbackup cron",
            fast_checkpoint=checkpoint is Checkpoint.FAST,
            max_rate=None if max_rate is None else parse_rate(max_rate),
            compression=compression,
        ),
        policy=Policy(keep_full, keep_days, () if keep is None else parse_tiers(keep), pitr_days),
        jobs=jobs or default_workers(),
        system=options.parse_system(system),
    )
    try:
        report = run_cron(open_storage(repo), request, SilentMeter())
    except Locked as error:
        if not quiet:
            say(f"pgbackup: the last run is not over yet: {error.message}")
        if json:
            print_json({"steps": [], "exit_code": int(ExitCode.OK), "is_overlapped": True})
        return ExitCode.OK
    if json:
        print_json(_document(report))
    elif report.exit_code or not quiet:
        say(f"pgbackup cron: {report.summary}")
    return report.exit_code


def _document(report: CronReport) -> dict[str, Any]:
    return {
        "system_identifier": str(report.system),
        "steps": [
            {
                "step": step.name,
                "text": step.text,
                "exit_code": int(step.exit_code),
                "is_skipped": step.is_skipped,
            }
            for step in report.steps
        ],
        "exit_code": int(report.exit_code),
        "is_overlapped": False,
    }
