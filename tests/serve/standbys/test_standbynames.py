"""synchronous_standby_names: parsed, matched, and judged as servers of each major do."""

import psycopg
import pytest
from psycopg import sql

from pgbackup.errors import ClientError
from pgbackup.serve.standbys.standbynames import Method, StandbyNames, parse_standby_names
from tests.cluster import Cluster

ACCEPTED = [
    "a", "*", "a, b ,c", "a,b,*", "1", "1,2", "007", "1 (a)", "2(a,b)", "2 (a)", "3 (1, 2)",
    "FIRST 1 (a)", "first 2 (a, b)", "FiRsT 1(*)", "ANY 1 (a, b)", "any 2(a,a)", "aNy 01 (x)",
    'ANY 1 ("any", "first")', '"a b"', '"a""b"', '""', '"*"', '" a"', '"a,b"', '"FIRST", x',
    "firsts", "any1", "_x$1", "a$", "ü", "ünï, ☃", "\ta\f,\rb ", "A", "FIRST 1 (A, a)",
    "first1, b", "1 ( 1 )", "2147483647 (a)", "4294967297 (a)", "99999999999 (a)",
]  # fmt: skip
REFUSED = [
    " ", ",", "a,", ",a", "a b", "a,,b", "(a)", "a (b)", "1 (", "1 ()", "1 (a", "1 (a,)", "1 (a) b",
    "1 (a) ;", "FIRST", "FIRST a", "FIRST, a", "any", "any, b", "a, any", "FIRST 1", "FIRST 1 a",
    "FIRST (a)", "FIRST FIRST (a)", "FIRST 1 (FIRST)", "ANY 1 (a) (b)", "ANY x (a)", "1 1 (a)",
    "2nd", "a-b", "a.b", "'a'", "$a", "a;", '"a', '"a""', 'a, "b', '"', '"a" "b"', 'a "b"', 'x"y"',
    "1 (a))", "a)", "*a", "**", "a *", "1.5 (a)", "-1 (a)", "ANY -1 (a)", "+1 (a)", "1 2", "*(a)",
    "0 (a)", "FIRST 0 (a)", "ANY 00 (a, b)", "4294967296 (a)", "2147483648 (a)",
    "99999999999999999999 (a)", "0 (a", "a =", "/* c */ a", "a -- c", "ANY 1 (a) AND", "é é",
]  # fmt: skip

Verdict = tuple[str | None, str | None, str | None]
"""SQLSTATE, message and detail of what is refused."""


def our_verdict(text: str) -> Verdict | None:
    try:
        parse_standby_names(text)
    except ClientError as error:
        return error.sqlstate, error.message, error.detail
    return None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a, B", StandbyNames(Method.PRIORITY, 1, ("a", "B"))),
        ("2 (a, 3)", StandbyNames(Method.PRIORITY, 2, ("a", "3"))),
        ("7, 8", StandbyNames(Method.PRIORITY, 1, ("7", "8"))),
        ("first 3 (*)", StandbyNames(Method.PRIORITY, 3, ("*",))),
        ('ANY 2 ("x""y", any_)', StandbyNames(Method.QUORUM, 2, ('x"y', "any_"))),
        ("4294967298 (a)", StandbyNames(Method.PRIORITY, 2, ("a",))),
        ("", None),
    ],
)
def test_a_value_is_parsed(text: str, expected: StandbyNames | None) -> None:
    assert parse_standby_names(text) == expected


def test_the_first_name_that_matches_gives_the_priority() -> None:
    names = StandbyNames(Method.PRIORITY, 1, ("a", "Bee", "*", "c"))
    assert [names.priority(each) for each in ("A", "bEE", "c", "other")] == [1, 2, 3, 3]


def test_every_name_of_a_quorum_has_the_same_priority() -> None:
    names = StandbyNames(Method.QUORUM, 1, ("a", "b"))
    assert [names.priority(each) for each in ("a", "B", "c")] == [1, 1, 0]


def test_case_is_ignored_in_ascii_alone() -> None:
    assert StandbyNames(Method.PRIORITY, 1, ("Ü",)).priority("ü") == 0


def test_servers_judge_values_in_the_same_words(cluster: Cluster) -> None:
    differences = []
    with cluster.connect() as connection:
        for text in ACCEPTED + REFUSED:
            theirs = servers_verdict(connection, text)
            assert (theirs is None) == (text in ACCEPTED), text
            if theirs != our_verdict(text):
                differences.append((text, theirs, our_verdict(text)))
    assert differences == []


def servers_verdict(connection: psycopg.Connection, text: str) -> Verdict | None:
    try:
        connection.execute(sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}").format(text))
    except psycopg.Error as error:
        return error.sqlstate, error.diag.message_primary, error.diag.message_detail
    return None
