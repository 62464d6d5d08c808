"""What the verbs share that receive WAL from a server: options, signals, and the run."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import Annotated

import typer

from pgbackup.archiving.options import DEFAULT_LEVEL
from pgbackup.archiving.receiver.heldslot import Servers, SlotOptions
from pgbackup.archiving.receiver.receive import ReceiveOptions, Relay, WalReceiver
from pgbackup.archiving.receiver.slotguard import SlotCap
from pgbackup.archiving.receiver.stopping import StopRequest
from pgbackup.cli import options
from pgbackup.cli.amounts import parse_compression, parse_size
from pgbackup.cli.connection import Connector
from pgbackup.errors import Interrupted, UsageError
from pgbackup.interrupts import ENDING_SIGNALS
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.replication.transport import Host
from pgbackup.repo.repository import Repository

Slot = Annotated[
    str | None,
    typer.Option(
        "--slot",
        "-S",
        metavar="NAME",
        callback=options.checked_slot,
        help="Replication slot that keeps WAL for us.",
    ),
]
CreateSlot = Annotated[
    bool, typer.Option("--create-slot", "-C", help="Create the slot of -S first.")
]
IfNotExists = Annotated[
    bool, typer.Option("--if-not-exists", help="With -C: use a slot that is there.")
]
SlotCapText = Annotated[
    str | None,
    typer.Option(
        "--slot-cap",
        metavar="SIZE[,warn|release]",
        help="Warn when the slot retains more; or drop it, record the gap and exit.",
    ),
]
SlotInterval = Annotated[
    float,
    typer.Option(
        "--slot-interval",
        metavar="SECONDS",
        min=0.1,
        max=options.MAX_SECONDS,
        help="Seconds between looks at the slot.",
    ),
]
ShadowSlots = Annotated[
    bool,
    typer.Option("--shadow-slots", help="Keep the slot on the other hosts, for a failover."),
]
AcceptGap = Annotated[
    bool,
    typer.Option("--accept-gap", help="Go on behind WAL that the server has removed."),
]
Synchronous = Annotated[
    bool,
    typer.Option("--synchronous", help="Flush and report at once: a synchronous standby."),
]
Compress = Annotated[
    str,
    typer.Option(
        "--compress",
        "-Z",
        metavar="METHOD",
        help="Of segments: none or zstd[:LEVEL]; zstd alone is level 1.",
    ),
]


def slot_options(
    name: str | None,
    *,
    create: bool,
    if_not_exists: bool,
    cap: str | None,
    interval: float,
    shadow: bool,
    once: bool = False,
) -> SlotOptions | None:
    """What is wanted of the slot; None without one. Raises: UsageError."""
    if name is None and create:
        raise UsageError("-C (--create-slot) needs the name of the slot: add -S NAME")
    if if_not_exists and not create:
        raise UsageError("--if-not-exists goes with -C (--create-slot)")
    if name is None and (cap is not None or shadow):
        raise UsageError("--slot-cap and --shadow-slots need the name of the slot: add -S NAME")
    if name is None:
        return None
    parsed = None if cap is None else parse_slot_cap(cap)
    return SlotOptions(
        name, interval=interval, cap=parsed, is_shadowed=shadow, tells_blindness=not once
    )


def parse_slot_cap(text: str) -> SlotCap:
    """Read SIZE, SIZE,warn or SIZE,release. Raises: UsageError."""
    size, _, policy = text.partition(",")
    if policy not in ("", "warn", "release"):
        raise UsageError(f'"{policy}" is no policy for a slot cap', hint="Use warn or release.")
    return SlotCap(parse_size(size), policy == "release")


def parse_level(compress: str) -> int | None:
    """The level of -Z; None for no compression. Raises: UsageError."""
    compression = parse_compression(compress, DEFAULT_LEVEL)
    return None if compression is None else compression.level


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


def receive(
    connector: Connector,
    repository: Repository,
    wanted: ReceiveOptions,
    stop: StopRequest,
    signals: Signals,
    tell: Callable[[str], None],
    relay: Relay | None = None,
) -> None:
    """Receive until the stop, or until there is nothing more to be received.

    Raises: as WalReceiver.run.
    """

    def connect() -> LibpqTransport:
        with signals.interrupting():
            return connector.connect()

    def hosts() -> list[Host]:
        return [Host(name, each.connect_quietly) for name, each in connector.each_host()]

    servers = Servers(connector.connect_quietly, hosts)
    with suppress(Interrupted):
        WalReceiver(connect, repository, wanted, stop, tell, servers, relay).run()


def relay(
    conninfo: str,
    repository: Repository,
    wanted: ReceiveOptions,
    stop: StopRequest,
    signals: Signals,
    tell: Callable[[str], None],
    to: Relay,
) -> None:
    """As `receive`, for those to whom it is sent on; what is there already is theirs at once.

    Raises: UsageError; as WalReceiver.run.
    """
    if conninfo and "=" not in conninfo and "://" not in conninfo:
        raise UsageError(
            f'"{conninfo}" is no connection string', hint='Write: --receive "host=... user=..."'
        )
    connector = Connector(None, None, None, conninfo, never_ask=False, ask=False)
    systems = repository.systems()
    if wanted.system in systems or (wanted.system is None and len(systems) == 1):
        cluster = repository.only_cluster(wanted.system)
        if cluster.facts() is not None:
            to.begin(cluster)
        wanted = replace(wanted, system=cluster.system)
    receive(connector, repository, wanted, stop, signals, tell, to)
