"""Messages of a server, from bytes that PostgreSQL sent."""

import pytest

from pgbackup.errors import ClientError, CorruptData
from pgbackup.wire import backend


@pytest.mark.parametrize(
    ("message", "kind", "body"),
    [
        (backend.authentication(backend.Authentication.OK), b"R", b"\0\0\0\0"),
        (
            backend.sasl_mechanisms(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]),
            b"R", b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
        ),
        (
            backend.negotiate_protocol_version(["_pq_.foo"]),
            b"v", b"\0\3\0\0\0\0\0\1_pq_.foo\0",
        ),
        (backend.negotiate_protocol_version([]), b"v", b"\0\3\0\0\0\0\0\0"),
        (backend.parameter_status("server_version", "15.18"), b"S", b"server_version\00015.18\0"),
        (
            backend.backend_key_data(1356, b"\xde\x2c\xe0\x9b"),
            b"K", b"\0\0\x05\x4c\xde\x2c\xe0\x9b",
        ),
        (backend.ready_for_query(), b"Z", b"I"),
        (
            backend.row_description([("recptr", backend.TEXT), ("tli", backend.INT8)]),
            b"T", b"\0\2recptr\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"
            b"tli\0\0\0\0\0\0\0\0\0\0\x14\0\x08\xff\xff\xff\xff\0\0",
        ),
        (
            backend.data_row(["0/B000028", 1, None, b"\xff\0"]),
            b"D", b"\0\4\0\0\0\x090/B000028\0\0\0\0011\xff\xff\xff\xff\0\0\0\2\xff\0",
        ),
        (backend.command_complete("SELECT"), b"C", b"SELECT\0"),
        (backend.copy_out_response(), b"H", b"\0\0\0"),
        (backend.copy_in_response(), b"G", b"\0\0\0"),
        (backend.copy_both_response(), b"W", b"\0\0\0"),
        (backend.copy_done(), b"c", b""),
        (
            backend.error_response(ClientError("syntax error", sqlstate="42601")),
            b"E", b"SERROR\0VERROR\0C42601\0Msyntax error\0\0",
        ),
        (
            backend.error_response(CorruptData("no", detail="d", hint="h"), fatal=True),
            b"E", b"SFATAL\0VFATAL\0CXX001\0Mno\0Dd\0Hh\0\0",
        ),
        (backend.warning("w"), b"N", b"SWARNING\0VWARNING\0C01000\0Mw\0\0"),
    ],
    ids=[
        "ok", "sasl", "negotiate", "negotiate-version", "parameter", "key", "ready", "columns",
        "row", "complete", "copy-out", "copy-in", "copy-both", "copy-done", "error",
        "fatal", "warning",
    ],
)  # fmt: skip
def test_a_message_is_what_postgresql_sends(message: bytes, kind: bytes, body: bytes) -> None:
    assert (message[:1], message[5:]) == (kind, body)
    assert int.from_bytes(message[1:5]) == len(message) - 1


def test_the_header_of_copied_data_counts_what_follows() -> None:
    assert backend.copy_data_header(3) + b"abc" == b"d\0\0\0\7abc"


def test_a_text_cannot_end_a_field_early() -> None:
    assert b"M" + b"ab\0" in backend.error_response(ClientError("a\0b", sqlstate="42601"))
