"""The end of a chain that is a client's connection, in both forms of the protocol."""

import threading
from itertools import groupby

import pytest

from pgbackup.errors import CorruptData
from pgbackup.pg.tar import BLOCK_SIZE, DIRECTORY, END_OF_ARCHIVE, TarHeader, padding
from pgbackup.serve.basebackup.copyout import (
    LARGEST_MESSAGE,
    CopyOut,
    PlainCopyOut,
    TypedCopyOut,
    copy_out,
)
from pgbackup.stream.progress import Progress, SilentMeter
from tests.serve.basebackup.received import Collected, TypedBackup, rows
from tests.stream.checked_sink import backup_state, send
from tests.waiting import PATIENCE

SIZES = [0, 1, 511, 512, 513, LARGEST_MESSAGE, LARGEST_MESSAGE + 700, 200_000]
PIECES = [(1 << 30,), (7, 8192, 100), (511, 513)]


def member(name: str, content: bytes = b"", type_: str = "0") -> bytes:
    header = TarHeader(name, len(content), 0o600, 0, 0, 0, type_)
    return header.encode() + content + bytes(padding(len(content)))


def archive() -> bytes:
    pattern = bytes(index % 251 + 1 for index in range(max(SIZES)))
    files = [member(f"f{size}", pattern[:size]) for size in SIZES]
    return member("dir", type_=DIRECTORY) + b"".join(files) + END_OF_ARCHIVE


ARCHIVES = {"16384.tar": member("one", b"x" * 1000) + END_OF_ARCHIVE, "base.tar": archive()}


def kinds(collected: Collected) -> str:
    """The types of all messages, each run of the same once."""
    return "".join(kind for kind, _ in groupby(each.kind for each in collected.messages()))


@pytest.mark.parametrize("is_deferred", [False, True], ids=["now", "deferred"])
@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_a_server_from_15_on_sends_one_typed_copy(
    pieces: tuple[int, ...], is_deferred: bool
) -> None:
    client = Collected()
    sink = Progress(TypedCopyOut(client), SilentMeter())
    send(sink, ARCHIVES, b"manifest" * 9999, pieces=pieces, is_deferred=is_deferred)
    found = TypedBackup.read(client.messages())
    total = sum(map(len, ARCHIVES.values()))
    assert kinds(client) == "TDCTDCHdcTDC"
    assert found.archives == ARCHIVES
    assert found.locations == {"16384.tar": "/ts/16384", "base.tar": ""}
    assert found.manifest == b"manifest" * 9999
    assert found.order[:3] == ["16384.tar", len(ARCHIVES["16384.tar"]), "base.tar"]
    assert found.order[-2:] == [total, "manifest"]


def test_positions_and_tablespaces_are_rows_as_the_server_sends_them() -> None:
    client = Collected()
    send(TypedCopyOut(client), ARCHIVES)
    assert rows(client.messages()) == [
        [b"0/2000028", b"1"],
        [b"16384", b"/ts/16384", None],
        [None, None, None],
        [b"0/2000100", b"1"],
    ]


def test_sizes_are_told_in_kilobytes() -> None:
    client, state = Collected(), backup_state(16384)
    state.tablespaces = tuple(
        type(each)(each.oid, each.location, 5000) for each in state.tablespaces
    )
    sink = TypedCopyOut(client)
    sink.begin_backup(state)
    sink.cleanup()
    assert [row[2] for row in rows(client.messages())[1:]] == [b"4", b"4"]


def test_a_black_hole_gets_the_order_of_things_and_no_contents() -> None:
    client = Collected()
    sink = Progress(copy_out(client, 15, sends_contents=False), SilentMeter())
    send(sink, ARCHIVES, b"manifest")
    found = TypedBackup.read(client.messages())
    assert found.archives == {"16384.tar": b"", "base.tar": b""}
    assert found.order[-1] == "manifest"
    assert found.manifest == b""


@pytest.mark.parametrize("is_deferred", [False, True], ids=["now", "deferred"])
@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_a_server_before_15_sends_each_header_content_and_padding_alone(
    pieces: tuple[int, ...], is_deferred: bool
) -> None:
    client = Collected()
    send(copy_out(client, 14), ARCHIVES, b"manifest", pieces=pieces, is_deferred=is_deferred)
    assert kinds(client) == "TDCTDCHdcHdcHdcTDC"
    copies: list[list[bytes]] = []
    for each in client.messages():
        if each.kind == "H":
            copies.append([])
        elif each.kind == "d":
            copies[-1].append(each.body)
    *archives, manifest = copies
    assert manifest == [b"manifest"]
    assert [b"".join(messages) + END_OF_ARCHIVE for messages in archives] == [*ARCHIVES.values()]
    for messages in archives:
        check_like_a_client(messages)


def check_like_a_client(messages: list[bytes]) -> None:
    """Be as strict as pg_basebackup of 13 in plain format."""
    waiting = iter(messages)
    for message in waiting:
        assert len(message) == BLOCK_SIZE
        header = TarHeader.parse(message)
        assert header is not None
        left = header.size
        while left:
            left -= len(next(waiting))
            assert left >= 0
        if padding(header.size):
            assert next(waiting) == bytes(padding(header.size))


def test_messages_are_no_longer_than_those_of_a_server() -> None:
    client = Collected()
    send(TypedCopyOut(client), ARCHIVES)
    longest = max(len(each.body) for each in client.messages())
    assert longest == LARGEST_MESSAGE + 1


def test_a_page_is_written_while_the_one_before_is_sent() -> None:
    second_began = threading.Event()

    class Patient(Collected):
        """Takes the first contents only when the thread has begun with the next ones."""

        def send(self, *parts: bytes | bytearray | memoryview) -> None:
            if any(len(part) == LARGEST_MESSAGE for part in parts):
                assert second_began.wait(PATIENCE)
            super().send(*parts)

    def first(memory: memoryview) -> None:
        memory[:] = b"1" * len(memory)

    def second(memory: memoryview) -> None:
        second_began.set()
        memory[:] = b"2" * len(memory)

    client = Patient()
    sink = TypedCopyOut(client)
    sink.begin_backup(backup_state())
    sink.begin_archive("base.tar")
    length = len(sink.buffer)
    sink.archive_later(length, first)
    sink.archive_later(length, second)
    sink.end_archive()
    sink.cleanup()
    assert TypedBackup.read(client.messages()).archives["base.tar"] == (
        b"1" * length + b"2" * length
    )


@pytest.mark.parametrize("form", [TypedCopyOut, PlainCopyOut])
def test_what_a_writer_raises_ends_the_backup_and_leaves_nothing_behind(
    form: type[CopyOut],
) -> None:
    def fail(memory: memoryview) -> None:
        raise CorruptData("could not decode a frame")

    sink = form(Collected())
    sink.begin_backup(backup_state())
    sink.begin_archive("base.tar")
    sink.archive_later(100, fail)
    with pytest.raises(CorruptData):
        sink.end_archive()
    sink.cleanup()
