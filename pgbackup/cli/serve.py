"""`pgbackup serve`: the repository as a PostgreSQL walsender."""

from typing import Annotated

import typer

from pgbackup.archiving.stopping import StopRequest
from pgbackup.cli import options
from pgbackup.cli.output import say
from pgbackup.cli.receive_wal import Signals
from pgbackup.errors import ExitCode
from pgbackup.serve.listener import UnixListener, user_name
from pgbackup.serve.offer import LATEST, Offer
from pgbackup.serve.server import Server
from pgbackup.serve.session import Gate
from pgbackup.serve.walnews import WalNews

DEFAULT_PORT = 5432
DEFAULT_GRACE = 60


def serve(
    repo: options.Repo = options.DEFAULT_REPO,
    *,
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            metavar="DIR",
            help="Directory of the Unix socket; clients name it with -h. Made if there is none.",
        ),
    ],
    port: Annotated[
        int, typer.Option("--port", "-p", min=1, max=65535, help="Part of the socket's name.")
    ] = DEFAULT_PORT,
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

    pg_basebackup gets a stored backup, pg_receivewal the archived WAL. Who connects has to be the
    user of the operating system that runs this, and ask for a PostgreSQL user of the same name.
    SIGTERM and SIGINT end it when the clients have got what is theirs.
    """
    cluster = options.open_repository(repo).only_cluster(options.parse_system(system))
    offer = Offer(cluster, label)
    tell = _silent if quiet else _tell
    news = WalNews(cluster)
    server = Server(offer, Gate({}, user_name(), b""), news, tell)
    with StopRequest() as stop, Signals(stop), news:
        listener = UnixListener(str(options.absolute(listen)), port)
        tell(f"serving PostgreSQL {offer.server_version} to: -h {listen} -p {port}")
        try:
            server.run(listener, lambda: stop.is_made)
        finally:
            listener.close()
            cut_off = server.finish(grace)
        if cut_off:
            tell(f"{cut_off} clients took longer than {grace} s and were cut off")
        return ExitCode.OK if stop.reason == "SIGTERM" else ExitCode.INTERRUPTED


def _tell(text: str) -> None:
    say(f"pgbackup: {text}")


def _silent(text: str) -> None:
    pass
