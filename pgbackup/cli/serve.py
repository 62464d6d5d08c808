"""`pgbackup serve`: the repository as a PostgreSQL walsender."""

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Annotated, NamedTuple

import typer

from pgbackup.archiving.receiver.receive import ReceiveOptions
from pgbackup.archiving.receiver.stopping import StopRequest
from pgbackup.cli import encryption, live, options, receiving
from pgbackup.cli.hangup import at_hang_up
from pgbackup.cli.output import say
from pgbackup.errors import ClientError, ExitCode, UsageError
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.serve.connections import STANDARD, Limits
from pgbackup.serve.entry.addresses import LOOPBACK, Address, default_addresses, parse_address
from pgbackup.serve.entry.entrance import read_entrance
from pgbackup.serve.entry.listeners import Listeners
from pgbackup.serve.entry.listeners import listen as listen_at
from pgbackup.serve.entry.tls import TlsFiles
from pgbackup.serve.offer import LATEST, Offer
from pgbackup.serve.pgdata.liveoffer import LiveOffer
from pgbackup.serve.pgdata.liveserver import LiveServer
from pgbackup.serve.server import Server
from pgbackup.serve.service import Service
from pgbackup.serve.standbys.clients import Clients
from pgbackup.serve.standbys.metrics import Metrics
from pgbackup.serve.standbys.standbynames import StandbyNames, parse_standby_names
from pgbackup.serve.wal.walnews import WalNews

DEFAULT_PORT = 5432
MAX_CLIENTS = 10_000
"""Each is a thread or two."""
DEFAULT_GRACE = 60


def serve(
    repo: options.Repo = options.DEFAULT_REPO,
    *,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT|DIR",
            help="Where clients connect: a port, or a directory (with a slash) for a Unix socket,"
            " which is made if there is none. May be repeated; default: a directory of our own"
            " and 127.0.0.1.",
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            "--port", "-p", metavar="PORT", min=1, max=65535, help="Where --listen names none."
        ),
    ] = DEFAULT_PORT,
    tls_cert: encryption.Certificate = None,
    tls_key: encryption.Key = None,
    tls_ca: encryption.Authorities = None,
    tls_crl: encryption.Revoked = None,
    max_clients: Annotated[
        int,
        typer.Option(
            "--max-clients",
            metavar="N",
            min=1,
            max=MAX_CLIENTS,
            help="How many are served at a time.",
        ),
    ] = STANDARD.clients,
    authentication_timeout: Annotated[
        int,
        typer.Option(
            "--authentication-timeout",
            metavar="SECONDS",
            min=1,
            max=options.MAX_SECONDS,
            help="Seconds in which a client has to be let in.",
        ),
    ] = int(STANDARD.authentication),
    label: Annotated[
        str,
        typer.Option(
            "--label", metavar="LABEL", help="The backup to send: a label, latest or oldest."
        ),
    ] = LATEST,
    pgdata: live.Pgdata = None,
    dbname: live.Dbname = None,
    grace: Annotated[
        int,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=options.MAX_SECONDS,
            help="Seconds that clients get to finish at the end.",
        ),
    ] = DEFAULT_GRACE,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="[HOST:]PORT",
            help="Tell Prometheus of the clients, on 127.0.0.1 unless another address is named.",
        ),
    ] = None,
    receive: Annotated[
        str | None,
        typer.Option(
            "--receive",
            metavar="CONNINFO",
            help="Receive WAL from this server as well, and send it on at once. The options"
            " below are those of receive-wal.",
        ),
    ] = None,
    slot: receiving.Slot = None,
    create_slot: receiving.CreateSlot = False,
    if_not_exists: receiving.IfNotExists = False,
    slot_cap: receiving.SlotCapText = None,
    slot_interval: receiving.SlotInterval = 60,
    shadow_slots: receiving.ShadowSlots = False,
    accept_gap: receiving.AcceptGap = False,
    synchronous: receiving.Synchronous = False,
    synchronous_standby_names: Annotated[
        str,
        typer.Option(
            "--synchronous-standby-names",
            metavar="'FIRST 2 (a, b)'|'ANY 1 (*)'",
            help="Report as flushed what these clients have flushed, too, so that the server's"
            " commits wait for them. As the server's setting of that name.",
        ),
    ] = "",
    compress: receiving.Compress = "zstd",
    system: options.System = None,
    quiet: options.Quiet = False,
) -> int:
    """Let stock clients restore from the repository, and stream WAL from it.

    pg_basebackup gets a stored backup, pg_receivewal the archived WAL. A client that has
    pgbackup.label, pgbackup.target_time or pgbackup.target_lsn set in PGOPTIONS gets that backup,
    or a clone as of that moment. On a Unix socket, who connects has to be the user of the operating
    system that runs this, and ask for a PostgreSQL user of the same name; other users, and all who
    come over the network, are those of `pgbackup serve-user`. Other machines are served over TLS
    only. With --receive it is a relay: what comes from the server is archived and sent on. With
    --pgdata clients get the data directory of a server on this host as it is now.
    SIGHUP has it read users and certificates again. SIGTERM and SIGINT end it when the clients have
    got what is theirs.
    """
    names = _standby_names(synchronous_standby_names)
    wanted = ReceiveOptions(
        slot=receiving.slot_options(
            slot,
            create=create_slot,
            if_not_exists=if_not_exists,
            cap=slot_cap,
            interval=slot_interval,
            shadow=shadow_slots,
        ),
        create_slot=create_slot,
        exists_ok=if_not_exists,
        synchronous=synchronous or names is not None,
        level=receiving.parse_level(compress),
        system=options.parse_system(system),
        accept_gap=accept_gap,
    )
    if receive is None and (slot or wanted.synchronous or accept_gap):
        raise UsageError(
            "--slot, --accept-gap, --synchronous and --synchronous-standby-names go with --receive"
        )
    source = live.live_server(pgdata, dbname, label, receives=receive is not None)
    opening = _Opening(
        live.repository_of(source, repo, create=receive is not None),
        source,
        label,
        [parse_address(each, port) for each in listen or []] or default_addresses(port),
        port,
        encryption.tls_files(tls_cert, tls_key, tls_ca, tls_crl),
        Limits(max_clients, authentication_timeout),
        _silent if quiet else _tell,
    )
    with StopRequest() as stop, receiving.Signals(stop) as signals, ExitStack() as stack:
        service = Service(
            opening.build, stop, is_fed=receive is not None, standby_names=synchronous_standby_names
        )
        if metrics is not None:
            stack.enter_context(Metrics(*_metrics_address(metrics), service.clients))
        try:
            with at_hang_up(service.reload):
                if receive is None:
                    service.begin(opening.cluster(wanted.system))
                    stop.wait(None)
                else:
                    repository, tell = opening.repository, opening.tell
                    receiving.relay(receive, repository, wanted, stop, signals, tell, service)
        finally:
            opening.end(service, grace)
        return ExitCode.OK if stop.reason == "SIGTERM" else ExitCode.INTERRUPTED


class _Opening(NamedTuple):
    """What the walsender is made of once its cluster is known. source: of --pgdata."""

    repository: Repository
    source: LiveServer | None
    label: str
    addresses: Sequence[Address]
    port: int
    files: TlsFiles | None
    limits: Limits
    tell: Callable[[str], None]

    def cluster(self, system: int | None) -> ClusterRepository:
        """What is served where nobody receives. Raises: PgbackupError."""
        if self.source is None:
            return self.repository.only_cluster(system)
        return self.repository.cluster(self.source.system())

    def build(
        self, cluster: ClusterRepository, news: WalNews, clients: Clients
    ) -> tuple[Server, Listeners]:
        """Listen, and say where. Raises: PgbackupError."""
        source = self.source
        offer = Offer(cluster, self.label) if source is None else LiveOffer(cluster, source)
        listeners = listen_at(self.addresses, self.port)
        storage = self.repository.storage
        read = partial(read_entrance, storage, self.files, is_exposed=listeners.is_exposed)
        try:
            server = Server(offer, read, news, clients, self.tell, self.limits)
        except BaseException:
            listeners.close()
            raise
        for place in listeners.places:
            self.tell(f"serving PostgreSQL {offer.server_version} to: {place}")
        return server, listeners

    def end(self, service: Service, grace: int) -> None:
        """End what is under way. Raises: what ended it before it was asked to."""
        try:
            cut_off = service.end(grace)
        finally:
            if self.source is not None:
                self.source.close()
        if cut_off:
            self.tell(f"{cut_off} clients took longer than {grace} s and were cut off")


def _metrics_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if re.fullmatch(r"[0-9]{1,5}", port) is None or not 0 < int(port) < 65536:
        raise UsageError(f'"{text}" is not a port, nor HOST:PORT')
    return host.strip("[]") or LOOPBACK, int(port)


def _standby_names(text: str) -> StandbyNames | None:
    try:
        return parse_standby_names(text)
    except ClientError as error:
        reason = "" if error.detail is None else f": {error.detail}"
        raise UsageError(error.message + reason) from error


def _tell(text: str) -> None:
    say(f"pgbackup: {text}")


def _silent(text: str) -> None:
    pass
