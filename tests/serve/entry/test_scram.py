"""SCRAM from the server's side: against a client written down by hand, and against anything."""

import hashlib
import os
import re
from base64 import b64decode, b64encode
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgbackup.errors import ClientError
from pgbackup.serve.entry.scram import PLAIN, PLUS, ScramServer
from pgbackup.serve.entry.verifier import digest, make_verifier

EXAMPLES = int(os.environ.get("PGBACKUP_FUZZ_EXAMPLES", "200"))
SECRET = b"only for this test"
VERIFIER = make_verifier("pencil")
BINDING = b"digest of a certificate"
NONCE = b"rOprNGfwEbeRWgbNEkqO"


def server(*, known: bool = True, binding: bytes | None = None) -> ScramServer:
    return ScramServer("u", VERIFIER if known else None, binding=binding, secret=SECRET)


def final_message(first: bytes, challenge: bytes, header: bytes, password: str) -> bytes:
    """What a client says to a challenge."""
    match = re.fullmatch(rb"r=([^,]+),s=([^,]+),i=([0-9]+)", challenge)
    assert match is not None
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), b64decode(match[2]), int(match[3]))
    key = digest(salted, b"Client Key")
    unproved = b"c=" + b64encode(header) + b",r=" + match[1]
    bare = first[first.index(b"n=") :]
    signature = digest(hashlib.sha256(key).digest(), b",".join((bare, challenge, unproved)))
    return unproved + b",p=" + b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))


@pytest.mark.parametrize(
    ("mechanism", "header", "binding"),
    [
        (PLAIN, b"n,,", None),
        (PLAIN, b"y,,", None),
        (PLAIN, b"n,,", BINDING),
        (PLUS, b"p=tls-server-end-point,,", BINDING),
    ],
    ids=["plain", "no-binding-here", "no-binding-there", "binding"],
)
def test_who_knows_the_password_is_let_in(
    mechanism: str, header: bytes, binding: bytes | None
) -> None:
    scram = server(binding=binding)
    first = header + b"n=,r=" + NONCE
    challenge = scram.challenge(mechanism, first)
    assert challenge.startswith(b"r=" + NONCE)
    bound = header + (BINDING if mechanism == PLUS else b"")
    final = scram.finish(final_message(first, challenge, bound, "pencil"))
    assert re.fullmatch(rb"v=[A-Za-z0-9+/]{43}=", final)


@pytest.mark.parametrize("known", [True, False], ids=["wrong-password", "unknown-user"])
def test_a_wrong_password_and_an_unknown_user_get_the_same_answers(known: bool) -> None:
    scram = server(known=known)
    first = b"n,,n=,r=" + NONCE
    challenge = scram.challenge(PLAIN, first)
    assert re.fullmatch(rb"r=[^,]{44},s=[A-Za-z0-9+/]{22}==,i=4096", challenge)
    with pytest.raises(ClientError) as caught:
        scram.finish(final_message(first, challenge, b"n,,", "pen"))
    assert caught.value.sqlstate == "28P01"
    assert caught.value.message == 'password authentication failed for user "u"'


@pytest.mark.parametrize(
    ("mechanism", "first", "binding", "sqlstate"),
    [
        ("SCRAM-SHA-1", b"n,,n=,r=x", None, "08P01"),
        (PLUS, b"p=tls-server-end-point,,n=,r=x", None, "08P01"),
        (PLUS, b"p=tls-unique,,n=,r=x", BINDING, "08P01"),
        (PLUS, b"n,,n=,r=x", BINDING, "08P01"),
        (PLAIN, b"p=tls-server-end-point,,n=,r=x", BINDING, "08P01"),
        (PLAIN, b"y,,n=,r=x", BINDING, "28000"),
        (PLAIN, b"n,a=root,n=,r=x", None, "0A000"),
        (PLAIN, b"n,,m=x,n=,r=x", None, "0A000"),
        (PLAIN, b"n,,r=x", None, "08P01"),
        (PLAIN, b"n,,n=", None, "08P01"),
        (PLAIN, b"n,,n=,r=", None, "08P01"),
        (PLAIN, b"n,,n=,r=a\x7f", None, "08P01"),
        (PLAIN, b"x,,n=,r=x", None, "08P01"),
        (PLAIN, b"", None, "08P01"),
    ],
)
def test_a_first_message_that_does_not_fit_is_refused(
    mechanism: str, first: bytes, binding: bytes | None, sqlstate: str
) -> None:
    with pytest.raises(ClientError) as caught:
        server(binding=binding).challenge(mechanism, first)
    assert caught.value.sqlstate == sqlstate


def test_what_was_bound_and_answered_has_to_come_back() -> None:
    first = b"n,,n=,r=" + NONCE
    for change in (
        lambda final: final.replace(b"c=biws", b"c=eSws"),
        lambda final: final.replace(b"r=", b"r=x"),
        lambda final: final[:-4],
        lambda final: final.partition(b",p=")[0],
        lambda final: b"",
    ):
        scram = server()
        final = final_message(first, scram.challenge(PLAIN, first), b"n,,", "pencil")
        with pytest.raises(ClientError):
            scram.finish(change(final))


def test_a_connection_bound_to_another_certificate_is_refused() -> None:
    scram = server(binding=BINDING)
    header = b"p=tls-server-end-point,,"
    first = header + b"n=,r=" + NONCE
    final = final_message(first, scram.challenge(PLUS, first), header + b"another", "pencil")
    with pytest.raises(ClientError, match="channel binding check failed"):
        scram.finish(final)


def test_any_messages_are_refused_with_an_error_for_the_client() -> None:
    pieces = st.sampled_from([b"n,,", b"p=", b"y,", b"n=,", b"r=", b"c=biws", b",p=", b"=", b"A"])
    messages = st.lists(pieces | st.binary(max_size=4), max_size=9).map(b"".join)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(st.sampled_from([PLAIN, PLUS]), messages, messages)
    def are_refused(mechanism: str, first: bytes, final: bytes) -> None:
        scram = server(binding=BINDING)
        with suppress(ClientError):
            scram.challenge(mechanism, first)
        with pytest.raises(ClientError):
            scram.finish(final)

    are_refused()
