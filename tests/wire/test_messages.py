"""Messages of a WAL stream, from bytes written down by hand."""

import struct
import time

import pytest

from pgbackup.errors import ClientError, CorruptData, ProtocolViolation
from pgbackup.pg.lsn import Lsn
from pgbackup.wire.messages import (
    EPOCH_DIFFERENCE,
    HotStandbyFeedback,
    Keepalive,
    StandbyStatus,
    XLogData,
    keepalive,
    parse_standby_message,
    parse_stream_message,
    standby_status,
    xlog_data_header,
)

XLOG_DATA = bytes.fromhex("77 0000000102000028 0000000102000100 0002C5A1B3D4E5F6")
KEEPALIVE = bytes.fromhex("6B 0000000102000100 FFFFFFFFFFFFFFFF")


@pytest.mark.parametrize("data", [b"", b"x", bytes(131072)], ids=["none", "one", "many"])
def test_wal_data_is_read(data: bytes) -> None:
    message = parse_stream_message(memoryview(XLOG_DATA + data))
    assert isinstance(message, XLogData)
    assert message.start == Lsn.parse("1/2000028")
    assert message.server_end == Lsn.parse("1/2000100")
    assert message.send_time == 0x0002C5A1B3D4E5F6
    assert bytes(message.data) == data


def test_wal_data_is_not_copied() -> None:
    payload = bytearray(XLOG_DATA + b"abc")
    message = parse_stream_message(memoryview(payload))
    assert isinstance(message, XLogData)
    payload[-1] = ord("z")
    assert bytes(message.data) == b"abz"


@pytest.mark.parametrize(("flag", "asks"), [(b"\0", False), (b"\1", True)])
def test_a_keepalive_is_read(flag: bytes, asks: bool) -> None:
    message = parse_stream_message(memoryview(KEEPALIVE + flag))
    assert message == Keepalive(Lsn.parse("1/2000100"), -1, asks)


@pytest.mark.parametrize("length", range(25))
def test_wal_data_without_a_whole_header_is_refused(length: int) -> None:
    with pytest.raises(ProtocolViolation, match=rf"\({length} bytes"):
        parse_stream_message(memoryview(XLOG_DATA[:length]))


@pytest.mark.parametrize("length", range(1, 18))
def test_a_short_keepalive_is_refused(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="short message"):
        parse_stream_message(memoryview(KEEPALIVE[:length]))


def test_messages_of_every_other_type_are_refused() -> None:
    for kind in set(range(256)) - {ord("w"), ord("k")}:
        with pytest.raises(ProtocolViolation, match=f"type {kind}\\)"):
            parse_stream_message(memoryview(bytes([kind]) + bytes(40)))


def test_the_largest_position_is_read() -> None:
    message = parse_stream_message(memoryview(b"w" + b"\xff" * 16 + bytes(8)))
    assert message.server_end == 2**64 - 1
    with pytest.raises(CorruptData):
        _ = message.server_end + 1


def test_a_status_is_written_in_34_bytes() -> None:
    before = time.time_ns() // 1000 - EPOCH_DIFFERENCE
    message = standby_status(Lsn(3), Lsn(2), Lsn(1), reply=True)
    after = time.time_ns() // 1000 - EPOCH_DIFFERENCE
    assert len(message) == 34
    kind, write, flush, apply, sent, reply = struct.unpack("!cQQQqB", message)
    assert (kind, write, flush, apply, reply) == (b"r", 3, 2, 1, 1)
    assert before <= sent <= after


def test_a_status_asks_for_no_answer_by_default() -> None:
    assert standby_status(Lsn(0), Lsn(0), Lsn(0))[-1] == 0


def test_times_count_from_the_year_2000() -> None:
    assert time.strftime("%F %T", time.gmtime(EPOCH_DIFFERENCE / 1e6)) == "2000-01-01 00:00:00"


def test_what_the_server_sends_the_client_reads() -> None:
    start, end = Lsn.parse("1/2000028"), Lsn.parse("1/2000100")
    data = parse_stream_message(memoryview(xlog_data_header(start, end) + b"abc"))
    assert isinstance(data, XLogData)
    assert (data.start, data.server_end, bytes(data.data)) == (start, end, b"abc")
    for reply in (False, True):
        message = keepalive(end, reply=reply)
        assert len(message) == 18  # a walreceiver takes no other length
        assert parse_stream_message(memoryview(message)) == Keepalive(
            end, int.from_bytes(message[9:17]), reply
        )


@pytest.mark.parametrize("more", [b"", b"more"], ids=["exact", "longer"])
def test_what_the_client_reports_the_server_reads(more: bytes) -> None:
    message = standby_status(Lsn(3), Lsn(2), Lsn(1), reply=True)
    assert parse_standby_message(message + more) == StandbyStatus(
        Lsn(3), Lsn(2), Lsn(1), int.from_bytes(message[25:33]), True
    )


def test_feedback_of_a_hot_standby_is_read() -> None:
    message = bytes.fromhex("68 0002C5A1B3D4E5F6 000002DB 00000000 00000000 00000000")
    assert len(message) == 25
    assert parse_standby_message(message) == HotStandbyFeedback(0x0002C5A1B3D4E5F6)


@pytest.mark.parametrize(("kind", "length"), [(b"r", 34), (b"h", 25)], ids=["status", "feedback"])
def test_a_short_message_of_a_standby_is_an_error_that_it_is_told(kind: bytes, length: int) -> None:
    for short in range(1, length):
        with pytest.raises(ClientError, match="insufficient data left in message") as caught:
            parse_standby_message(kind + bytes(short - 1))
        assert caught.value.sqlstate == "08P01"


def test_an_unknown_message_of_a_standby_ends_the_connection() -> None:
    for kind in set(range(256)) - {ord("r"), ord("h")}:
        with pytest.raises(ProtocolViolation, match="unexpected message type"):
            parse_standby_message(bytes([kind]) + bytes(40))
    with pytest.raises(ClientError, match="no data left in message"):
        parse_standby_message(b"")
