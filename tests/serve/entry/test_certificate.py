"""What a password is bound to; that it is what libpq computes is in test_session_libpq.py."""

import hashlib
import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbackup.serve.entry.certificate import end_point_binding


def certificate(directory: Path, *words: str) -> bytes:
    """A certificate that signs itself, as DER."""
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-subj", "/CN=x", "-keyout", "/dev/null",
         "-out", "cert.pem", *words],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip
    return ssl.PEM_cert_to_DER_cert((directory / "cert.pem").read_text())


@pytest.mark.parametrize(
    ("words", "digest"),
    [
        (["-newkey", "rsa:2048", "-sha1"], "sha256"),
        (["-newkey", "rsa:2048", "-sha512"], "sha512"),
        (["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-sha224"], "sha224"),
    ],
    ids=["sha1", "sha512", "sha224"],
)
def test_the_digest_is_that_of_the_signature_and_never_a_broken_one(
    tmp_path: Path, words: list[str], digest: str
) -> None:
    der = certificate(tmp_path, *words)
    assert end_point_binding(der) == hashlib.new(digest, der).digest()


def test_a_signature_without_a_digest_binds_nothing(tmp_path: Path) -> None:
    assert end_point_binding(certificate(tmp_path, "-newkey", "ed25519")) is None


@given(st.binary(max_size=40) | st.lists(st.sampled_from(b"\x30\x06\x80\x84\0\x01")).map(bytes))
def test_what_is_no_certificate_binds_nothing(der: bytes) -> None:
    assert end_point_binding(der) is None
