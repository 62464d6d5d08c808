"""Messages of clients out of bytes: in any pieces, and never longer than they may be."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgbackup.errors import ClientError, ProtocolViolation
from pgbackup.wire.frontend import (
    MAX_AUTHENTICATION_MESSAGE,
    MAX_COPY_DATA,
    MAX_QUERY,
    FrontendReader,
    Message,
    query_text,
)
from pgbackup.wire.startup import MAX_STARTUP_PACKET

EXAMPLES = int(os.environ.get("PGBACKUP_FUZZ_EXAMPLES", "200"))
KINDS = b"QXdcfpPBEDCSHF"


def framed(message: Message) -> bytes:
    return bytes([message.kind]) + (len(message.body) + 4).to_bytes(4) + message.body


def fed(data: bytes) -> FrontendReader:
    reader = FrontendReader()
    reader.feed(data)
    return reader


def test_messages_come_whole_out_of_any_pieces() -> None:
    messages = st.lists(st.builds(Message, st.sampled_from(KINDS), st.binary(max_size=50)))

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(st.binary(min_size=4, max_size=50), messages, st.data())
    def come_whole(packet: bytes, sent: list[Message], data: st.DataObject) -> None:
        stream = (len(packet) + 4).to_bytes(4) + packet + b"".join(map(framed, sent))
        reader, got, first = FrontendReader(), [], None
        while stream:
            cut = data.draw(st.integers(1, len(stream)))
            reader.feed(stream[:cut])
            stream = stream[cut:]
            if first is None:
                first = reader.startup_packet()
            while first is not None and (message := reader.message()) is not None:
                got.append(message)
        assert first == packet
        assert got == sent
        assert not reader.unread

    come_whole()


@pytest.mark.parametrize("length", [0, 4, MAX_STARTUP_PACKET + 5, 2**31, 2**32 - 1])
def test_a_packet_of_an_impossible_length_is_refused_by_its_length(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="invalid length of startup packet"):
        fed(length.to_bytes(4)).startup_packet()


def test_the_longest_packet_is_read() -> None:
    body = b"x" * MAX_STARTUP_PACKET
    assert fed((len(body) + 4).to_bytes(4) + body).startup_packet() == body


@pytest.mark.parametrize(
    ("kind", "limit"),
    [(b"Q", MAX_QUERY), (b"P", MAX_QUERY), (b"d", MAX_COPY_DATA), (b"p", 10_000), (b"X", 10_000)],
)
def test_each_type_has_its_limit(kind: bytes, limit: int) -> None:
    reader = fed(kind + (limit + 4).to_bytes(4) + bytes(limit))
    assert reader.message() == Message(kind[0], bytes(limit))
    with pytest.raises(ProtocolViolation, match="invalid message length"):
        fed(kind + (limit + 5).to_bytes(4)).message()


def test_a_stranger_has_a_lower_limit() -> None:
    with pytest.raises(ProtocolViolation, match="invalid message length"):
        fed(b"p" + (MAX_AUTHENTICATION_MESSAGE + 5).to_bytes(4)).message(MAX_AUTHENTICATION_MESSAGE)


@pytest.mark.parametrize("length", [0, 3, 2**31, 2**32 - 1])
def test_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="invalid message length"):
        fed(b"d" + length.to_bytes(4)).message()


def test_every_other_type_is_refused_by_its_first_byte() -> None:
    for kind in set(range(256)) - set(KINDS):
        with pytest.raises(ClientError, match=f"^invalid frontend message type {kind}$"):
            fed(bytes([kind])).message()


def test_the_text_of_a_query_is_all_of_it() -> None:
    assert query_text("SHOW größe\0".encode()) == "SHOW größe"
    assert query_text(b"\xff\0") == "\udcff"
    with pytest.raises(ClientError, match="invalid string in message"):
        query_text(b"SHOW a")
    with pytest.raises(ClientError, match="invalid message format"):
        query_text(b"SHOW a\0b\0")
