"""`pgbackup serve`: the repository as a PostgreSQL walsender."""

from typing import Annotated

import typer

from pgbackup.archiving.stopping import StopRequest
from pgbackup.cli import encryption, options
from pgbackup.cli.output import say
from pgbackup.cli.receive_wal import Signals
from pgbackup.errors import ExitCode
from pgbackup.serve.addresses import default_addresses, parse_address
from pgbackup.serve.entrance import check_exposed, read_entrance
from pgbackup.serve.listeners import listen as listen_at
from pgbackup.serve.offer import LATEST, Offer
from pgbackup.serve.server import Server
from pgbackup.serve.walnews import WalNews

DEFAULT_PORT = 5432
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
        typer.Option("--port", "-p", min=1, max=65535, help="Where --listen names none."),
    ] = DEFAULT_PORT,
    tls_cert: encryption.Certificate = None,
    tls_key: encryption.Key = None,
    tls_ca: encryption.Authorities = None,
    tls_crl: encryption.Revoked = None,
    label: Annotated[
        str, typer.Option("--label", help="The backup to send: a label, latest or oldest.")
    ] = LATEST,
    grace: Annotated[
        int, typer.Option(min=0, help="Seconds that clients get to finish at the end.")
    ] = DEFAULT_GRACE,
    system: options.System = None,
    quiet: options.Quiet = False,
) -> int:
    """Let stock clients restore from the repository, and stream WAL from it.

    pg_basebackup gets a stored backup, pg_receivewal the archived WAL. On a Unix socket, who
    connects has to be the user of the operating system that runs this, and ask for a PostgreSQL
    user of the same name; other users, and all who come over the network, are those of
    `pgbackup serve-user`. Other machines are served over TLS only.
    SIGTERM and SIGINT end it when the clients have got what is theirs.
    """
    files = encryption.tls_files(tls_cert, tls_key, tls_ca, tls_crl)
    addresses = [parse_address(each, port) for each in listen or []] or default_addresses(port)
    repository = options.open_repository(repo)
    cluster = repository.only_cluster(options.parse_system(system))
    offer = Offer(cluster, label)
    tell = _silent if quiet else _tell
    news = WalNews(cluster)
    server = Server(offer, read_entrance(repository.storage, files), news, tell)
    with StopRequest() as stop, Signals(stop), news:
        listeners = listen_at(addresses, port)
        try:
            if listeners.is_exposed:
                check_exposed(server.entrance)
            for place in listeners.places:
                tell(f"serving PostgreSQL {offer.server_version} to: {place}")
            server.run(listeners, lambda: stop.is_made)
        finally:
            listeners.close()
            cut_off = server.finish(grace)
        if cut_off:
            tell(f"{cut_off} clients took longer than {grace} s and were cut off")
        return ExitCode.OK if stop.reason == "SIGTERM" else ExitCode.INTERRUPTED


def _tell(text: str) -> None:
    say(f"pgbackup: {text}")


def _silent(text: str) -> None:
    pass
