"""TLS as a server does it: certificate and key from files, and one connection's bytes both ways.

Bytes in, bytes out, and no socket: whoever has one carries them. A context is made anew when the
files have changed; connections keep the one they began with.

Source: be-secure-openssl.c (PostgreSQL 18).
"""

import re
import ssl
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from pgbackup.errors import ConnectionFailed, PgbackupError, Refused
from pgbackup.serve.entry.certificate import end_point_binding
from pgbackup.storage.api import Bytes

ALPN: Final = "postgresql"
PIECE_SIZE: Final = 64 << 10
"""Bytes that go out in one call, about. More of them do not stay in the processor's cache while
they are encrypted and sent."""

RECORD_SIZE: Final = 16 << 10
"""Bytes; the most that one record of TLS can carry. Each costs both sides the same, however small.
Source: RFC 8446, 5.1"""

_READ_SIZE = 1 << 16  # bytes
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_NAMES = ("DNS", "email", "URI", "IP Address")


class TlsFiles(NamedTuple):
    """certificate, key: of the server, in PEM.

    authorities: whose clients' certificates are believed; None if no client shall send one.
    revoked:     lists of certificates of theirs that count no more.
    """

    certificate: Path
    key: Path
    authorities: Path | None = None
    revoked: Path | None = None


class Tls:
    """What the files give.

    binding: tls-server-end-point of the certificate; None if it has none.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read the files. Raises: Refused for a key that others may read, PgbackupError."""
        try:
            _check_key(files.key)
            self._context = _context(files)
            found = _CERTIFICATE.search(files.certificate.read_bytes())
        except ssl.SSLError as error:
            raise PgbackupError(
                f'could not load certificate "{files.certificate}" and its key: {_reason(error)}'
            ) from error
        except OSError as error:
            raise PgbackupError(
                f'could not read the files of TLS, "{files.certificate}" and others:'
                f" {error.strerror}"
            ) from error
        der = b"" if found is None else ssl.PEM_cert_to_DER_cert(found[0].decode("ascii"))
        self.binding = end_point_binding(der)

    def begin(self) -> "TlsStream":
        """The server's side of one connection."""
        return TlsStream(self._context)


class TlsStream:
    """One connection. What it gives has to be sent, in that order."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def shake_hands(self, data: bytes) -> bool:
        """Take what has arrived; return whether the handshake is over. Then send `pending`.

        Raises: ConnectionFailed, when the other side has to be sent what is pending as well.
        """
        self._incoming.write(data)
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise ConnectionFailed(f"could not begin TLS: {_reason(error)}") from error
        return True

    def pending(self) -> bytes:
        """What has to be sent by now."""
        return self._outgoing.read()

    def decrypt(self, data: bytes) -> bytes:
        """Take what has arrived, and return what of it is for us. Raises: ConnectionFailed."""
        self._incoming.write(data)
        found = []
        try:
            while piece := self._ssl.read(_READ_SIZE):
                found.append(piece)
            if not found:
                raise ConnectionFailed("could not receive from the client: it ended TLS")
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise ConnectionFailed(f"could not receive over TLS: {_reason(error)}") from error
        return b"".join(found)

    def encrypt(self, parts: Sequence[Bytes]) -> Iterator[bytes]:
        """Yield what has to be sent for some buffers. Raises: ConnectionFailed."""
        for piece in _whole_records(parts):
            try:
                self._ssl.write(piece)
            except ssl.SSLError as error:
                raise ConnectionFailed(f"could not send over TLS: {_reason(error)}") from error
            if self._outgoing.pending >= PIECE_SIZE:
                yield self._outgoing.read()
        if self._outgoing.pending:
            yield self._outgoing.read()

    def end(self) -> bytes:
        """The last thing to be sent."""
        with suppress(ssl.SSLError):  # it does not wait for the answer
            self._ssl.unwrap()
        return self._outgoing.read()

    @property
    def has_alpn(self) -> bool:
        """Whether the client has said that it wants to talk to PostgreSQL."""
        return self._ssl.selected_alpn_protocol() == ALPN

    @property
    def certificate_names(self) -> frozenset[str]:
        """The common and the alternative names in the certificate that the client has proved."""
        certificate = self._ssl.getpeercert() or {}
        alternative = certificate.get("subjectAltName", ())
        names = {str(each[1]) for each in alternative if each[0] in _NAMES}
        for part in certificate.get("subject", ()):
            names.update(str(pair[1]) for pair in part if pair[0] == "commonName")
        return frozenset(name for name in names if name and "\0" not in name)


def _context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 and newer, without compression, renegotiation and tickets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols([ALPN])
    context.load_cert_chain(files.certificate, files.key, _no_passphrase)
    if files.authorities is not None:
        context.load_verify_locations(files.authorities)
        context.verify_mode = ssl.CERT_OPTIONAL
    if files.revoked is not None:
        context.load_verify_locations(files.revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    return context


def _no_passphrase() -> str:
    """Asked for one by OpenSSL, which would else ask the terminal."""
    raise Refused(
        "could not load the key of the certificate: it has a passphrase",
        hint="Make a copy without: openssl pkey -in KEY -out COPY",
    )


def _check_key(key: Path) -> None:
    """Raises: Refused if more users can read the key than PostgreSQL allows."""
    found = key.stat()
    allowed = stat.S_IRWXU | (stat.S_IRGRP if found.st_uid == 0 else 0)
    if stat.S_IMODE(found.st_mode) & ~allowed:
        raise Refused(
            f'private key file "{key}" has group or world access',
            detail="It must have permissions u=rw (0600) or less if it is owned by the user that"
            " runs this, or u=rw,g=r (0640) or less if it is owned by root.",
            hint=f"Type: chmod 600 {key}",
        )


def _whole_records(parts: Sequence[Bytes]) -> Iterator[Bytes]:
    """The same bytes in multiples of a record but for the last; inner ones where they lie."""
    edge = bytearray()
    for part in parts:
        rest = memoryview(part).cast("B")
        if edge or len(rest) < RECORD_SIZE:
            missing = RECORD_SIZE - len(edge)
            edge += rest[:missing]
            rest = rest[missing:]
            if len(edge) < RECORD_SIZE:
                continue
            yield edge
            edge = bytearray()
        whole = len(rest) - len(rest) % RECORD_SIZE
        for offset in range(0, whole, PIECE_SIZE):
            yield rest[offset : min(offset + PIECE_SIZE, whole)]
        edge += rest[whole:]
    if edge:
        yield edge


def _reason(error: ssl.SSLError) -> str:
    """What OpenSSL says, as words."""
    reason = error.reason or str(error)
    return reason.replace("_", " ").lower()
