"""The same commands to a server of each major and to our grammar: the same verdict and words."""

import re

import pytest
from psycopg import pq

from pgbackup.errors import ClientError
from pgbackup.wire.grammar import parse_command
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.wire.command_table import COMMANDS

Verdict = tuple[str, str] | None
"""SQLSTATE and message of what is refused."""

OF_ITS_STATE = re.compile(
    "does not exist|already exists|unrecognized configuration parameter|could not open file"
    "|not in this server's history|logical decoding requires|WAL summarization"
    "|this build does not support|slot name"
)
"""Objections of a server that have nothing to do with the text of a command."""


def servers_verdict(server: Cluster, text: str) -> Verdict:
    """What the server says; the connection is closed in the middle of whatever has begun."""
    conninfo = server.conninfo("replication", replication="true")
    connection = pq.PGconn.connect(conninfo.encode())
    connection.exec_(b"IDENTIFY_SYSTEM")  # or old servers start no replication
    connection.send_query(text.encode("latin-1"))
    result = connection.get_result()
    assert result is not None
    fields = (pq.DiagnosticField.SQLSTATE, pq.DiagnosticField.MESSAGE_PRIMARY)
    sqlstate, message = ((result.error_field(field) or b"").decode() for field in fields)
    status = result.status
    connection.finish()
    return (sqlstate, message) if status == pq.ExecStatus.FATAL_ERROR else None


def our_verdict(text: str, major: int) -> Verdict:
    try:
        parse_command(text.encode("latin-1").decode("utf-8", "surrogateescape"), major)
    except ClientError as error:
        return error.sqlstate, error.message
    return None


@pytest.fixture(scope="module")
def server(module_cluster_factory: ClusterFactory, major: int) -> Cluster:
    return module_cluster_factory(
        major, settings={"max_replication_slots": 100, "max_wal_senders": 50}
    )


def test_our_grammar_judges_as_the_server_does(server: Cluster) -> None:
    differences = []
    refused = accepted = 0
    for text in COMMANDS:
        theirs, ours = servers_verdict(server, text), our_verdict(text, server.major)
        if theirs is None:
            accepted += 1
        elif OF_ITS_STATE.search(theirs[1]):
            continue
        else:
            refused += 1
        if theirs != ours:
            differences.append((text, theirs, ours))
    assert differences == []
    assert accepted > 20
    assert refused > 80
