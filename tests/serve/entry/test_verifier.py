"""Verifiers: the same as PostgreSQL makes of a password, and nothing else is one."""

import pytest

from pgbackup.errors import CorruptData
from pgbackup.serve.entry.verifier import Verifier, make_verifier, mock_verifier, prepare_password
from tests.cluster import Cluster

SECRET = b"only for this test"


def test_a_verifier_comes_back_from_its_text() -> None:
    verifier = make_verifier("pencil", iterations=5000)
    assert str(verifier).startswith("SCRAM-SHA-256$5000:")
    assert Verifier.parse(str(verifier)) == verifier
    assert make_verifier("pencil").salt != verifier.salt


def test_nothing_of_a_verifier_is_in_its_repr() -> None:
    assert repr(make_verifier("pencil")) == "Verifier(iterations=4096)"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "md5" + "0" * 32,
        "SCRAM-SHA-256$4096:AAAA$BBBB",
        "SCRAM-SHA-256$4096:AAAA$BBBB:CCCC",
        "SCRAM-SHA-256$4096:!$" + "A" * 43 + "=:" + "A" * 43 + "=",
        "SCRAM-SHA-256$0:AAAA$" + "A" * 43 + "=:" + "A" * 43 + "=",
        "SCRAM-SHA-256$99999999:AAAA$" + "A" * 43 + "=:" + "A" * 43 + "=",
        "SCRAM-SHA-1$4096:AAAA$" + "A" * 43 + "=:" + "A" * 43 + "=",
        "SCRAM-SHA-256$4096:AAAA$" + "A" * 43 + "=:" + "A" * 43 + "=\n",
    ],
)
def test_what_is_no_verifier_is_refused(text: str) -> None:
    with pytest.raises(CorruptData, match=r"^could not read a SCRAM-SHA-256 verifier$"):
        Verifier.parse(text)


def test_an_unknown_user_has_always_the_same_salt_and_another_one_elsewhere() -> None:
    assert mock_verifier("a", SECRET) == mock_verifier("a", SECRET)
    assert mock_verifier("a", SECRET).salt != mock_verifier("b", SECRET).salt
    assert mock_verifier("a", SECRET).salt != mock_verifier("a", SECRET + b"x").salt
    with pytest.raises(ValueError, match="too short"):
        mock_verifier("a", b"short")


PASSWORDS = [
    "pencil",
    "IX",
    "\u2168",  # roman numeral nine, which is IX
    "I\u00adX",  # a soft hyphen, which is nothing
    "a\u00a0b",  # a space that does not break, which is a space
    "\u00aa",
    "a\u0007b",  # a bell: prohibited
    "\u0627\u0031",  # right to left, and not to its end: prohibited
    "\u0627\u0031\u0628",
    "\u00ad",  # nothing is left
    "größe \U0001f511",
]


@pytest.mark.parametrize(
    ("password", "prepared"),
    [("I\u00adX", b"IX"), ("\u2168", b"IX"), ("\u00aa", b"a"), ("a\u0007b", b"a\x07b")],
)
def test_a_password_is_prepared_as_rfc_4013_says(password: str, prepared: bytes) -> None:
    assert prepare_password(password) == prepared


def test_postgresql_makes_the_same_verifier(newest_cluster: Cluster) -> None:
    for password in PASSWORDS:
        literal = password.replace("'", "''")
        newest_cluster.sql(f"DROP ROLE IF EXISTS a; CREATE ROLE a PASSWORD '{literal}'")
        [[text]] = newest_cluster.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'a'")
        theirs = Verifier.parse(text)
        ours = make_verifier(password, iterations=theirs.iterations, salt=theirs.salt)
        assert str(ours) == text, ascii(password)
