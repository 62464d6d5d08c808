"""`pgbackup receive-wal`."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated

import typer

from pgbackup.archiving.heldslot import Servers, SlotOptions
from pgbackup.archiving.options import DEFAULT_LEVEL
from pgbackup.archiving.receive import ReceiveOptions, WalReceiver
from pgbackup.archiving.slotguard import SlotCap
from pgbackup.archiving.stopping import StopRequest
from pgbackup.cli import connection, options
from pgbackup.cli.amounts import parse_compression, parse_size
from pgbackup.cli.output import say
from pgbackup.errors import CorruptData, ExitCode, Interrupted, UsageError
from pgbackup.interrupts import ENDING_SIGNALS
from pgbackup.pg.lsn import Lsn
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.transport import Host
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
    slot: Annotated[
        str | None, typer.Option("--slot", "-S", help="Replication slot that keeps WAL for us.")
    ] = None,
    create_slot: Annotated[
        bool, typer.Option("--create-slot", "-C", help="Create the slot of -S first.")
    ] = False,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="With -C: use a slot that is there.")
    ] = False,
    slot_cap: Annotated[
        str | None,
        typer.Option(
            "--slot-cap",
            metavar="SIZE[,warn|release]",
            help="Warn when the slot retains more; or drop it, record the gap and exit.",
        ),
    ] = None,
    slot_interval: Annotated[
        float, typer.Option("--slot-interval", min=0.1, help="Seconds between looks at the slot.")
    ] = 60,
    shadow_slots: Annotated[
        bool,
        typer.Option("--shadow-slots", help="Keep the slot on the other hosts, for a failover."),
    ] = False,
    accept_gap: Annotated[
        bool,
        typer.Option("--accept-gap", help="Go on behind WAL that the server has removed."),
    ] = False,
    synchronous: Annotated[
        bool,
        typer.Option("--synchronous", help="Flush and report at once: a synchronous standby."),
    ] = False,
    compress: Annotated[
        str,
        typer.Option(
            "--compress",
            "-Z",
            help="none or zstd[:LEVEL] for finished segments; zstd alone is level 1.",
        ),
    ] = "zstd",
    endpos: Annotated[
        str | None,
        typer.Option("--endpos", "-E", metavar="LSN", help="Stop when all before it is received."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Catch up with the server and exit, for cron.")
    ] = False,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for another receiver to end.")
    ] = 0,
    no_loop: Annotated[
        bool, typer.Option("--no-loop", "-n", help="Exit when the connection is lost.")
    ] = False,
    quiet: options.Quiet = False,
) -> int:
    """Receive WAL from a running server into the repository, as it is written."""
    if slot is None and create_slot:
        raise UsageError("-C (--create-slot) needs the name of the slot: add -S NAME")
    if if_not_exists and not create_slot:
        raise UsageError("--if-not-exists goes with -C (--create-slot)")
    if slot is None and (slot_cap is not None or shadow_slots):
        raise UsageError("--slot-cap and --shadow-slots need the name of the slot: add -S NAME")
    compression = parse_compression(compress, DEFAULT_LEVEL)
    watched = slot and SlotOptions(
        slot,
        interval=slot_interval,
        cap=None if slot_cap is None else parse_slot_cap(slot_cap),
        is_shadowed=shadow_slots,
        tells_blindness=not once,
    )
    wanted = ReceiveOptions(
        slot=watched or None,
        create_slot=create_slot,
        exists_ok=if_not_exists,
        synchronous=synchronous,
        endpos=None if endpos is None else parse_position(endpos),
        once=once,
        loop=not (no_loop or once),
        level=None if compression is None else compression.level,
        wait=wait,
        system=options.parse_system(system),
        accept_gap=accept_gap,
    )
    connector = connection.Connector(
        host, port, username, dbname, never_ask=no_password, ask=password
    )
    repository = Repository.open(open_storage(repo), create=True)
    with StopRequest() as stop, Signals(stop) as signals:

        def connect() -> LibpqTransport:
            with signals.interrupting():
                return connector.connect()

        def hosts() -> list[Host]:
            return [Host(name, each.connect_quietly) for name, each in connector.each_host()]

        servers = Servers(connector.connect_quietly, hosts)
        tell = _silent if quiet else _tell
        with suppress(Interrupted):
            WalReceiver(connect, repository, wanted, stop, tell, servers).run()
        return ExitCode.OK if stop.reason in (None, "SIGTERM") else ExitCode.INTERRUPTED


def parse_slot_cap(text: str) -> SlotCap:
    """Read SIZE, SIZE,warn or SIZE,release. Raises: UsageError."""
    size, _, policy = text.partition(",")
    if policy not in ("", "warn", "release"):
        raise UsageError(f'"{policy}" is no policy for a slot cap', hint="Use warn or release.")
    return SlotCap(parse_size(size), policy == "release")


def parse_position(value: str) -> Lsn:
    """Read the LSN of an option. Raises: UsageError."""
    try:
        return Lsn.parse(value)
    except CorruptData as error:
        raise UsageError(f'"{value}" is not a WAL position like 0/3000000') from error


class Signals:
    """SIGTERM, SIGINT and SIGHUP ask for a stop in good order, while in the block.

    Only in `interrupting` do they raise: there is nothing to put in order, and no end in sight.
    """

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        self._interrupts = False
        self._before = {
            number: signal.signal(number, self._handle)
            for number in ENDING_SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN  # as it is under nohup
        }

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let the signals end what is waited for inside the block."""
        self._interrupts = True
        try:
            if self._stop.is_made:
                raise Interrupted("the receiver was told to stop")
            yield
        finally:
            self._interrupts = False

    def __enter__(self) -> "Signals":
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._stop.make(signal.Signals(number).name)
        if self._interrupts:
            self._interrupts = False
            raise Interrupted("the receiver was told to stop")


def _tell(text: str) -> None:
    say(f"pgbackup: {text}")


def _silent(text: str) -> None:
    pass
