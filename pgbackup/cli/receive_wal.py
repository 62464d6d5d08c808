"""`pgbackup receive-wal`."""

from typing import Annotated

import typer

from pgbackup.archiving.receiver.receive import ReceiveOptions
from pgbackup.archiving.receiver.stopping import StopRequest
from pgbackup.cli import connection, options, receiving
from pgbackup.cli.output import say
from pgbackup.errors import CorruptData, ExitCode, UsageError
from pgbackup.pg.lsn import Lsn
from pgbackup.repo.repository import Repository
from pgbackup.storage.registry import open_storage


def receive_wal(
    *,
    host: connection.Host = None,
    port: connection.Port = None,
    username: connection.User = None,
    dbname: connection.Dbname = None,
    no_password: connection.NoPassword = False,
    password: connection.AskPassword = False,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    slot: receiving.Slot = None,
    create_slot: receiving.CreateSlot = False,
    if_not_exists: receiving.IfNotExists = False,
    slot_cap: receiving.SlotCapText = None,
    slot_interval: receiving.SlotInterval = 60,
    shadow_slots: receiving.ShadowSlots = False,
    accept_gap: receiving.AcceptGap = False,
    synchronous: receiving.Synchronous = False,
    compress: receiving.Compress = "zstd",
    endpos: Annotated[
        str | None,
        typer.Option("--endpos", "-E", metavar="LSN", help="Stop when all before it is received."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Catch up with the server and exit, for cron.")
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0,
            max=options.MAX_SECONDS,
            help="Seconds to wait for another receiver to end.",
        ),
    ] = 0,
    no_loop: Annotated[
        bool, typer.Option("--no-loop", "-n", help="Exit when the connection is lost.")
    ] = False,
    quiet: options.Quiet = False,
) -> int:
    """Receive WAL from a running server into the repository, as it is written."""
    watched = receiving.slot_options(
        slot,
        create=create_slot,
        if_not_exists=if_not_exists,
        cap=slot_cap,
        interval=slot_interval,
        shadow=shadow_slots,
        once=once,
    )
    wanted = ReceiveOptions(
        slot=watched,
        create_slot=create_slot,
        exists_ok=if_not_exists,
        synchronous=synchronous,
        endpos=None if endpos is None else parse_position(endpos),
        once=once,
        loop=not (no_loop or once),
        level=receiving.parse_level(compress),
        wait=wait,
        system=options.parse_system(system),
        accept_gap=accept_gap,
    )
    connector = connection.Connector(
        host, port, username, dbname, never_ask=no_password, ask=password
    )
    repository = Repository.open(open_storage(repo), create=True)
    tell = _silent if quiet else _tell
    with StopRequest() as stop, receiving.Signals(stop) as signals:
        receiving.receive(connector, repository, wanted, stop, signals, tell)
        return ExitCode.OK if stop.reason in (None, "SIGTERM") else ExitCode.INTERRUPTED


def parse_position(value: str) -> Lsn:
    """Read the LSN of an option. Raises: UsageError."""
    try:
        return Lsn.parse(value)
    except CorruptData as error:
        raise UsageError(f'"{value}" is not a WAL position like 0/3000000') from error


def _tell(text: str) -> None:
    say(f"pgbackup: {text}")


def _silent(text: str) -> None:
    pass
