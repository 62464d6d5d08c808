"""The first packets of a connection: what clients send, and what nobody should."""

import pytest

from pgbackup.errors import ClientError, ProtocolViolation
from pgbackup.wire.startup import (
    CancelRequest,
    GssEncRequest,
    Replication,
    SslRequest,
    StartupMessage,
    parse_bool,
    parse_command_line,
    parse_startup_packet,
)
from tests.wire.startup_packets import WRONG, startup


@pytest.mark.parametrize(
    ("body", "packet"),
    [
        (bytes.fromhex("04d2162f"), SslRequest()),
        (bytes.fromhex("04d21630"), GssEncRequest()),
        (bytes.fromhex("04d2162e 0000054c de2ce09b"), CancelRequest(1356, b"\xde\x2c\xe0\x9b")),
        (bytes.fromhex("04d2162e 00000001") + b"k" * 256, CancelRequest(1, b"k" * 256)),
        (
            startup(
                "user", "postgres", "database", "replication", "replication", "true",
                "application_name", "pg_basebackup",
            ),
            StartupMessage(
                "postgres", 0, "replication", Replication.PHYSICAL,
                {"application_name": "pg_basebackup"},
            ),
        ),
        (startup("user", "u"), StartupMessage("u", database="u")),
        (
            startup("user", "u", "database", "d", "replication", "database"),
            StartupMessage("u", database="d", replication=Replication.DATABASE),
        ),
        (
            startup("user", "u", "options", "-c a-b=1 --c=x\\ y", "options2", ""),
            StartupMessage(
                "u", database="u", settings={"a_b": "1", "c": "x y", "options2": ""}
            ),
        ),
    ],
    ids=[
        "ssl", "gssenc", "cancel", "cancel-long-key", "pg_basebackup", "user-alone", "database",
        "options",
    ],
)  # fmt: skip
def test_what_clients_begin_with_is_understood(body: bytes, packet: object) -> None:
    assert parse_startup_packet(body) == packet


def test_a_newer_protocol_and_its_extensions_are_negotiated() -> None:
    wanted = startup("user", "u", "_pq_.foo", "1", version=b"\0\3\0\2")
    message = parse_startup_packet(wanted)
    assert isinstance(message, StartupMessage)
    assert message.needs_negotiation
    assert message.extensions == ("_pq_.foo",)
    assert message.settings == {}
    plain = parse_startup_packet(startup("user", "u"))
    assert isinstance(plain, StartupMessage)
    assert not plain.needs_negotiation


@pytest.mark.parametrize(
    ("body", "sqlstate", "text"),
    [
        (b"\0\2\0\0", "0A000", "unsupported frontend protocol 2.0: server supports 3.0 to 3.0"),
        (b"\0\4\0\1", "0A000", "unsupported frontend protocol 4.1: server supports 3.0 to 3.0"),
        (b"GET / HT", "0A000", "unsupported frontend protocol 18245.21536: server supports"),
        *WRONG,
    ],
)
def test_what_is_wrong_is_said_as_the_server_says_it(body: bytes, sqlstate: str, text: str) -> None:
    with pytest.raises(ClientError) as caught:
        parse_startup_packet(body)
    assert caught.value.sqlstate == sqlstate
    assert caught.value.message.startswith(text)


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\3", bytes.fromhex("04d2162f00"), bytes.fromhex("04d21630 00000000"),
     bytes.fromhex("04d2162e 00000001"), bytes.fromhex("04d2162e 00000001") + b"k" * 257],
)  # fmt: skip
def test_a_packet_of_a_wrong_length_is_no_clients(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="invalid length"):
        parse_startup_packet(body)


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("T", True), ("yes", True), ("on", True), ("1", True), ("ON", True),
     ("false", False), ("n", False), ("of", False), ("off", False), ("0", False),
     ("", None), ("o", None), ("2", None), ("truex", None), ("nope", None)],
)  # fmt: skip
def test_a_boolean_is_read_by_any_unique_beginning(text: str, value: bool | None) -> None:
    assert parse_bool(text) is value


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("", {}),
        ("  ", {}),
        ("-c pgbackup.label=20261122T164200F", {"pgbackup.label": "20261122T164200F"}),
        ("-ca=1 -c b=", {"a": "1", "b": ""}),
        (r"-c t=2026-11-22\ 16:42:00 -c w=a\\b", {"t": "2026-11-22 16:42:00", "w": r"a\b"}),
        ("--a-b=c-d=e", {"a_b": "c-d=e"}),
    ],
)
def test_settings_stand_in_the_options_of_a_connection(options: str, found: dict[str, str]) -> None:
    assert parse_command_line(options) == found
