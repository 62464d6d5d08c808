"""What a password is bound to when it is given over TLS: a digest of the server's certificate.

Source: RFC 5929, section 4; be-secure-openssl.c, be_tls_get_certificate_hash (PostgreSQL 18).
"""

import hashlib

_DIGESTS = {
    "2a864886f70d010104": "sha256",  # RSA with MD5
    "2a864886f70d010105": "sha256",  # RSA with SHA-1
    "2a864886f70d01010b": "sha256",
    "2a864886f70d01010c": "sha384",
    "2a864886f70d01010d": "sha512",
    "2a864886f70d01010e": "sha224",
    "2a8648ce3d0401": "sha256",  # ECDSA with SHA-1
    "2a8648ce3d040301": "sha224",
    "2a8648ce3d040302": "sha256",
    "2a8648ce3d040303": "sha384",
    "2a8648ce3d040304": "sha512",
}
"""By the object identifier of a signature algorithm; for MD5 and SHA-1 it is SHA-256."""

_SEQUENCE = 0x30
_OBJECT_IDENTIFIER = 0x06


def end_point_binding(der: bytes) -> bytes | None:
    """The tls-server-end-point of a certificate; None if its signature has no known digest."""
    try:
        certificate = _contents(der, 0, _SEQUENCE)[0]
        algorithm = _contents(certificate, _contents(certificate, 0, _SEQUENCE)[1], _SEQUENCE)[0]
        identifier = _contents(algorithm, 0, _OBJECT_IDENTIFIER)[0]
    except (IndexError, ValueError):
        return None
    digest = _DIGESTS.get(identifier.hex())
    return None if digest is None else hashlib.new(digest, der).digest()


def _contents(der: bytes, start: int, tag: int) -> tuple[bytes, int]:
    """What is in an element of DER, and where the next one begins.

    Raises: ValueError, IndexError.
    """
    length, begin = der[start + 1], start + 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(der[start + 2 : begin])
    if der[start] != tag or begin + length > len(der):
        raise ValueError("not the element that was expected")
    return der[begin : begin + length], begin + length
