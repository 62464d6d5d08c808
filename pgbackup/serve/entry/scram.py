"""The server's side of SCRAM-SHA-256, with and without channel binding.

Two messages come, two go; whatever is wrong with them ends the connection. Somebody whom we do not
know, and somebody who gives a wrong password, get the same answers at the same points.

Source: RFC 5802, RFC 7677; auth-scram.c (PostgreSQL 18).
"""

import binascii
import hashlib
import hmac
import re
import secrets
from base64 import b64decode, b64encode

from pgbackup.errors import ClientError
from pgbackup.serve.entry.verifier import KEY_LENGTH, Verifier, digest, mock_verifier

PLAIN = "SCRAM-SHA-256"
PLUS = "SCRAM-SHA-256-PLUS"
BINDING_TYPE = "tls-server-end-point"
NONCE_LENGTH = 18
"""Bytes of ours before they are text."""

_FIRST = re.compile(
    rb"(?P<header>(?P<flag>n|y|p=[^,]*),(?P<authzid>[^,]*),)(?P<bare>.*)", re.DOTALL
)
_BARE = re.compile(rb"n=[^,]*,r=(?P<nonce>[^,]+)(?:,.*)?", re.DOTALL)
_PRINTABLE = re.compile(rb"[\x21-\x7e]*")
_FINAL = re.compile(
    rb"(?P<unproved>c=(?P<binding>[^,]*),r=(?P<nonce>[^,]*)(?:,.*)?),p=(?P<proof>[^,]*)", re.DOTALL
)


class ScramServer:
    """One authentication.

    verifier: None for a user that cannot come in with a password.
    binding:  what the connection's TLS is bound to; None without, or where it is not known.
    secret:   for what unknown users see, see mock_verifier.
    """

    def __init__(
        self, user: str, verifier: Verifier | None, *, binding: bytes | None, secret: bytes
    ) -> None:
        self._user = user
        self._is_hopeless = verifier is None
        self._verifier = verifier or mock_verifier(user, secret)
        self._binding = binding
        self._header = self._client_first = self._server_first = self._nonce = b""
        self._expected = b""
        self._has_binding = False
        self.mechanisms = (PLAIN,) if binding is None else (PLUS, PLAIN)

    def challenge(self, mechanism: str, message: bytes) -> bytes:
        """Answer the client's first message. Raises: ClientError."""
        if mechanism not in self.mechanisms:
            raise _violation("client selected an invalid SASL authentication mechanism")
        match = _FIRST.fullmatch(message)
        if match is None:
            raise _malformed("The message is not a client-first-message.")
        self._check_flag(mechanism, match["flag"])
        if match["authzid"]:
            raise ClientError(
                "client uses authorization identity, but it is not supported", sqlstate="0A000"
            )
        self._has_binding = mechanism == PLUS
        self._expected = match["header"] + (self._binding or b"") * self._has_binding
        self._client_first = match["bare"]
        if self._client_first.startswith(b"m="):
            raise ClientError("client requires an unsupported SCRAM extension", sqlstate="0A000")
        bare = _BARE.fullmatch(self._client_first)
        if bare is None:
            raise _malformed("The message names no user or has no nonce.")
        if _PRINTABLE.fullmatch(bare["nonce"]) is None:
            raise _violation("non-printable characters in SCRAM nonce")
        self._nonce = bare["nonce"] + b64encode(secrets.token_bytes(NONCE_LENGTH))
        verifier = self._verifier
        self._server_first = b"r=%b,s=%b,i=%d" % (
            self._nonce, b64encode(verifier.salt), verifier.iterations,
        )  # fmt: skip
        return self._server_first

    def finish(self, message: bytes) -> bytes:
        """Judge the client's second message, and answer it if it proves the password.

        Raises: ClientError; with 28P01 if there is no such user, or the password is wrong.
        """
        match = _FINAL.fullmatch(message)
        if match is None:
            raise _malformed("The message is not a client-final-message.")
        if not hmac.compare_digest(match["binding"], b64encode(self._expected)):
            raise self._unbound()
        if not hmac.compare_digest(match["nonce"], self._nonce):
            raise _violation("invalid SCRAM response", "Nonce does not match.")
        proof = _decode(match["proof"])
        signed = b",".join((self._client_first, self._server_first, match["unproved"]))
        signature = digest(self._verifier.stored_key, signed)
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        is_proved = hmac.compare_digest(
            hashlib.sha256(client_key).digest(), self._verifier.stored_key
        )
        if self._is_hopeless or not is_proved:
            raise ClientError(
                f'password authentication failed for user "{self._user}"', sqlstate="28P01"
            )
        return b"v=" + b64encode(digest(self._verifier.server_key, signed))

    def _unbound(self) -> ClientError:
        """What is wrong with a client that repeats something else than it has begun with."""
        if self._has_binding:
            return ClientError("SCRAM channel binding check failed", sqlstate="28000")
        return _violation("unexpected SCRAM channel-binding attribute in client-final-message")

    def _check_flag(self, mechanism: str, flag: bytes) -> None:
        """Compare what the client says of channel binding with the mechanism it has chosen."""
        if flag.startswith(b"p="):
            if mechanism != PLUS:
                raise _malformed("Channel binding data came with SCRAM-SHA-256.")
            if flag != b"p=" + BINDING_TYPE.encode():
                raise _violation("unsupported SCRAM channel-binding type")
        elif mechanism == PLUS:
            raise _malformed("No channel binding data came with SCRAM-SHA-256-PLUS.")
        elif flag == b"y" and PLUS in self.mechanisms:
            raise ClientError(
                "SCRAM channel binding negotiation error",
                sqlstate="28000",
                detail="The client supports SCRAM channel binding but thinks the server does not."
                "  However, this server does support channel binding.",
            )


def _decode(proof: bytes) -> bytes:
    try:
        decoded = b64decode(proof, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != KEY_LENGTH:
        raise _malformed("Malformed proof in client-final-message.")
    return decoded


def _violation(message: str, detail: str | None = None) -> ClientError:
    return ClientError(message, sqlstate="08P01", detail=detail)


def _malformed(detail: str) -> ClientError:
    return _violation("malformed SCRAM message", detail)
