"""Options of a server's side of TLS, under the names that they have in other programs."""

from typing import Annotated

import typer

from pgbackup.cli import options
from pgbackup.errors import UsageError
from pgbackup.serve.entry.tls import TlsFiles

Certificate = Annotated[
    str | None,
    typer.Option(
        "--tls-cert", metavar="FILE", help="Our certificate, and the chain to it, as PEM."
    ),
]
Key = Annotated[str | None, typer.Option("--tls-key", metavar="FILE", help="Its private key.")]
Authorities = Annotated[
    str | None,
    typer.Option("--tls-ca", metavar="FILE", help="Whose certificates of clients are believed."),
]
Revoked = Annotated[
    str | None,
    typer.Option("--tls-crl", metavar="FILE", help="Which of these count no more."),
]


def tls_files(
    certificate: str | None, key: str | None, authorities: str | None, revoked: str | None
) -> TlsFiles | None:
    """What the options say; None without. Raises: UsageError."""
    if (certificate is None) != (key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    if authorities is not None and certificate is None:
        raise UsageError("--tls-ca goes with --tls-cert")
    if revoked is not None and authorities is None:
        raise UsageError("--tls-crl goes with --tls-ca")
    if certificate is None or key is None:
        return None
    return TlsFiles(
        options.absolute(certificate),
        options.absolute(key),
        None if authorities is None else options.absolute(authorities),
        None if revoked is None else options.absolute(revoked),
    )
