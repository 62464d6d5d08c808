"""The tar walker: any pieces give the same members, and nothing is trusted."""

import random
from collections.abc import Iterator

import pytest

from pgbackup.errors import CorruptData
from pgbackup.pg.tar import DIRECTORY, SYMLINK, TarHeader
from pgbackup.stream.untar import TarWalker
from tests.stream.tars import MEMBERS, archive, directory, file, header, symlink

ARCHIVE = archive()
BLOCKS = range(0, len(ARCHIVE), 512)


class Recorder:
    """Keeps the members, and asserts the order of the calls."""

    def __init__(self) -> None:
        self.headers: list[TarHeader] = []
        self.offsets: list[int] = []
        self.members: list[tuple[str, bytes]] = []
        self._parts: list[bytes] | None = None

    def begin_member(self, header: TarHeader, offset: int) -> None:
        assert self._parts is None, "a member begins within a member"
        self._parts = []
        self.headers.append(header)
        self.offsets.append(offset)

    def member_contents(self, data: memoryview) -> None:
        assert self._parts is not None
        assert len(data)
        self._parts.append(bytes(data))

    def end_member(self) -> None:
        assert self._parts is not None
        content = b"".join(self._parts)
        assert len(content) == self.headers[-1].size
        self.members.append((self.headers[-1].name, content))
        self._parts = None


def walk(data: bytes, pieces: list[int] | None = None) -> tuple[Recorder, TarWalker]:
    recorder = Recorder()
    walker = TarWalker(recorder, name="base.tar")
    for piece in cut(data, pieces or [len(data) or 1]):
        walker.feed(piece)
    walker.finish()
    return recorder, walker


def cut(data: bytes, lengths: list[int]) -> Iterator[memoryview]:
    """Pieces of these lengths in turn; each is scribbled over when the next one is taken."""
    offset = number = 0
    while offset < len(data):
        piece = bytearray(data[offset : offset + lengths[number % len(lengths)]])
        offset += len(piece)
        number += 1
        yield memoryview(piece)
        piece[:] = b"\xee" * len(piece)


@pytest.mark.parametrize("length", [1, 7, 511, 512, 513, 4096, 1 << 20])
def test_pieces_of_any_length_give_the_same_members(length: int) -> None:
    recorder, walker = walk(ARCHIVE, [length])
    assert recorder.members == list(MEMBERS)
    assert walker.offset == len(ARCHIVE)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_changing_length_give_the_same_members(seed: int) -> None:
    chance = random.Random(seed)
    recorder, _ = walk(ARCHIVE, [chance.choice([1, 100, 511, 512, 513, 3000]) for _ in range(9)])
    assert recorder.members == list(MEMBERS)


def test_a_piece_without_bytes_is_no_piece() -> None:
    walker = TarWalker(Recorder())
    walker.feed(memoryview(b""))
    walker.finish()
    assert walker.offset == 0


def test_offsets_are_where_the_headers_stand() -> None:
    recorder, walker = walk(ARCHIVE, [777])
    for (name, _), offset in zip(MEMBERS, recorder.offsets, strict=True):
        parsed = TarHeader.parse(ARCHIVE[offset : offset + 512])
        assert parsed is not None
        assert parsed.name == name
    assert walker.end_offset == len(ARCHIVE) - 1024


def test_a_walk_can_start_at_any_header() -> None:
    offset = walk(ARCHIVE)[0].offsets[3]
    recorder = Recorder()
    walker = TarWalker(recorder, offset=offset)
    walker.feed(memoryview(ARCHIVE)[offset:])
    assert recorder.members == list(MEMBERS[3:])
    assert recorder.offsets[0] == offset
    assert walker.offset == len(ARCHIVE)


def test_directories_and_links_are_members_without_contents() -> None:
    data = directory("pg_wal") + symlink("pg_tblspc/16384", "/ts/1") + file("a", b"1") + bytes(1024)
    recorder, _ = walk(data, [100])
    assert [h.type for h in recorder.headers] == [DIRECTORY, SYMLINK, "0"]
    assert recorder.headers[1].linkname == "/ts/1"
    assert recorder.members == [("pg_wal", b""), ("pg_tblspc/16384", b""), ("a", b"1")]


def test_an_archive_with_no_member_is_an_archive() -> None:
    recorder, walker = walk(bytes(1024))
    assert recorder.members == []
    assert walker.end_offset == 0


@pytest.mark.parametrize("zero_blocks", [1, 2, 3, 20])
def test_the_end_marker_may_be_of_any_length(zero_blocks: int) -> None:
    recorder, walker = walk(file("a", b"1") + bytes(512 * zero_blocks), [700])
    assert recorder.members == [("a", b"1")]
    assert walker.end_offset == 1024


@pytest.mark.parametrize("length", BLOCKS, ids=lambda length: f"block{length // 512}")
def test_an_archive_cut_at_any_block_is_not_taken_for_a_whole_one(length: int) -> None:
    """Between two members the cut is only seen by the missing end marker."""
    recorder = Recorder()
    walker = TarWalker(recorder, name="base.tar")
    walker.feed(memoryview(ARCHIVE)[:length])
    boundaries = {*walk(ARCHIVE)[0].offsets, len(ARCHIVE) - 1024, len(ARCHIVE) - 512}
    if length in boundaries:
        walker.finish()
        assert (walker.end_offset is None) == (length < len(ARCHIVE) - 512)
    else:
        with pytest.raises(CorruptData, match=r'could not read "base\.tar": it ends inside'):
            walker.finish()
    assert recorder.members == list(MEMBERS[: len(recorder.members)])


@pytest.mark.parametrize("excess", [-511, -1, 1, 511])
def test_an_archive_cut_within_a_block_is_refused(excess: int) -> None:
    for length in BLOCKS[1:]:
        walker = TarWalker(Recorder())
        walker.feed(memoryview(ARCHIVE)[: length + excess])
        with pytest.raises(CorruptData, match="ends inside a member"):
            walker.finish()


@pytest.mark.parametrize("length", [1, 512, 1 << 20])
def test_a_member_after_the_end_marker_is_refused(length: int) -> None:
    with pytest.raises(CorruptData, match="a member follows its end marker"):
        walk(ARCHIVE + file("late", b"x"), [length])


@pytest.mark.parametrize("junk", [b"x", b"x" * 512, bytes(511) + b"x", b"\0"])
def test_junk_after_the_end_marker_is_refused(junk: bytes) -> None:
    with pytest.raises(CorruptData):
        walk(ARCHIVE + junk)


def test_a_header_with_any_bit_changed_is_refused() -> None:
    """Or reads the same: the digits of the checksum may begin and end in several ways."""
    intact = header("base/1/1255", 0)
    expected, _ = walk(intact)
    for bit in range(512 * 8):
        block = bytearray(intact)
        block[bit // 8] ^= 1 << bit % 8
        try:
            recorder, _ = walk(bytes(block))
        except CorruptData:
            continue
        assert bit // 8 in range(148, 156), f"the change of bit {bit} was not noticed"
        assert recorder.headers == expected.headers


def test_a_size_larger_than_the_archive_is_an_archive_that_ends_too_early() -> None:
    with pytest.raises(CorruptData, match="ends inside a member"):
        walk(header("huge", 1 << 62) + bytes(4096))


class Calls:
    """Notes what a walker calls."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def begin_member(self, header: TarHeader, offset: int) -> None:
        self.seen.append(f"begin {header.name}")

    def member_contents(self, data: memoryview) -> None:
        self.seen.append(f"{len(data)} bytes")

    def end_member(self) -> None:
        self.seen.append("end")


def test_contents_can_be_passed_over() -> None:
    calls = Calls()
    walker = TarWalker(calls)
    whole = file("a", bytes(600)) + file("b", b"x" * 5)
    walker.feed(memoryview(whole)[:512])
    walker.skip(100)
    walker.skip(500)
    walker.feed(memoryview(whole)[1112:])
    assert calls.seen == ["begin a", "end", "begin b", "5 bytes", "end"]
    assert walker.offset == len(whole)


def test_only_contents_can_be_passed_over() -> None:
    walker = TarWalker(Recorder())
    walker.feed(memoryview(file("a", bytes(600)))[:512])
    with pytest.raises(ValueError, match="contents of one member"):
        walker.skip(601)


def test_a_header_that_has_begun_is_told() -> None:
    walker = TarWalker(Recorder())
    assert not walker.is_inside_header
    walker.feed(memoryview(ARCHIVE)[:100])
    assert walker.is_inside_header
    walker.feed(memoryview(ARCHIVE)[100:512])
    assert not walker.is_inside_header
