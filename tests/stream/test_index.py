"""The member index: where each member starts, for names of any bytes."""

import pytest

from pgbackup.errors import CorruptData
from pgbackup.pg.tar import DIRECTORY, END_OF_ARCHIVE, SYMLINK, TarHeader
from pgbackup.stream.index import IndexEntry, TarIndex, decode_index, encode_entry
from pgbackup.stream.sink import Sink
from tests.stream.checked_sink import CheckedSink, send
from tests.stream.link_contract import ARCHIVES, LinkContract
from tests.stream.tars import MEMBERS, archive, directory, file, symlink


class TestTarIndex(LinkContract):
    EMPTY_ARCHIVE = END_OF_ARCHIVE

    def link(self, successor: Sink) -> Sink:
        return TarIndex(successor, lambda name, index: None)


@pytest.mark.parametrize("size", [0, 1024], ids=["empty", "at a member boundary"])
def test_an_archive_without_its_end_marker_is_refused(size: int) -> None:
    whole = file("a", b"1")
    assert len(whole) == 1024
    with pytest.raises(CorruptData, match="without its end marker"):
        index_of({"base.tar": whole[:size]})


def index_of(archives: dict[str, bytes], piece: int = 1000) -> dict[str, list[IndexEntry]]:
    """What an index link hands over, decoded."""
    found: dict[str, bytes] = {}
    send(TarIndex(CheckedSink(), found.__setitem__), archives, pieces=[piece])
    return {name: decode_index(data, name) for name, data in found.items()}


@pytest.mark.parametrize("piece", [1, 511, 512, 8192])
def test_the_index_leads_to_every_member(piece: int) -> None:
    data = archive()
    entries = index_of({"base.tar": data}, piece)["base.tar"]
    assert [(entry.name, entry.size) for entry in entries] == [(n, len(c)) for n, c in MEMBERS]
    for entry, (_, content) in zip(entries, MEMBERS, strict=True):
        assert data[entry.offset + 512 :][: entry.size] == content


def test_each_archive_has_its_own_index() -> None:
    indexes = index_of(ARCHIVES)
    assert list(indexes) == list(ARCHIVES)
    assert [entry.offset for entry in indexes["16384.tar"]] == [0, 1024]
    assert indexes["base.tar"][0].offset == 0


def test_members_are_counted_over_all_archives() -> None:
    link = TarIndex(CheckedSink(), lambda name, index: None)
    send(link, ARCHIVES)
    assert link.members == 2 + len(MEMBERS)


def test_the_index_tells_the_kind_of_a_member() -> None:
    data = directory("d") + symlink("l", "d") + file("f", b"") + bytes(1024)
    entries = index_of({"base.tar": data})["base.tar"]
    assert [(e.name, e.type) for e in entries] == [("d", DIRECTORY), ("l", SYMLINK), ("f", "0")]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"base/1/1255", id="plain"),
        pytest.param(b"with space", id="space"),
        pytest.param(b"tab\there", id="tab"),
        pytest.param(b"line\nbreak", id="newline"),
        pytest.param(b"carriage\rreturn", id="carriage-return"),
        pytest.param(b"100%", id="percent"),
        pytest.param(b"%2F%", id="looks-encoded"),
        pytest.param(b"\x80\xff\xfe", id="not-utf-8"),
        pytest.param("größe".encode(), id="utf-8"),
        pytest.param("größe".encode("latin-1"), id="latin-1"),
        pytest.param("a\u2028b\x85".encode(), id="unicode-line-separators"),
        pytest.param(b"\x01\x1c\x1f\x7f", id="control-characters"),
        pytest.param(b"a+=@,:~b", id="not-encoded"),
        pytest.param(b"n" * 99, id="longest"),
    ],
)
def test_names_of_any_bytes_come_back(raw: bytes) -> None:
    name = raw.decode("utf-8", "surrogateescape")
    line = encode_entry(TarHeader(name, 8192, 0o600, 0, 0, 0), 512)
    assert line.isascii()
    assert decode_index(line, "x") == [IndexEntry(512, 8192, "0", name)]


def test_types_of_any_byte_come_back() -> None:
    """An archive may hold types that PostgreSQL never writes; the walker lets them pass."""
    for kind in map(chr, range(1, 256)):
        line = encode_entry(TarHeader("a", 0, 0o600, 0, 0, 0, kind), 0)
        assert decode_index(line, "x") == [IndexEntry(0, 0, kind, "a")]


def test_the_format_is_four_fields_and_a_newline() -> None:
    assert encode_entry(TarHeader("a b", 7, 0o600, 0, 0, 0), 1024) == b"1024\t7\t0\ta%20b\n"


def test_an_empty_index_has_no_members() -> None:
    assert decode_index(b"", "x") == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"0\t0\t0\n", id="a-field-missing"),
        pytest.param(b"0\t0\t0\ta\tb\n", id="a-field-too-many"),
        pytest.param(b"x\t0\t0\ta\n", id="offset-not-a-number"),
        pytest.param(b"-1\t0\t0\ta\n", id="offset-negative"),
        pytest.param(b"0\t1.5\t0\ta\n", id="size-not-a-number"),
        pytest.param(b"0\t\t0\ta\n", id="size-empty"),
        pytest.param(b"0\t" + b"9" * 5000 + b"\t0\ta\n", id="size-of-5000-digits"),
        pytest.param("0\t\u0661\t0\ta\n".encode(), id="size-in-other-digits"),
        pytest.param(b"\n", id="empty-line"),
        pytest.param(b"0\t0\t0\ta\n\n", id="empty-line-at-the-end"),
        pytest.param(b"0\t0\t0\ta\n0\t0\t0\tb\n", id="same-offset"),
        pytest.param(b"512\t0\t0\ta\n0\t0\t0\tb\n", id="offsets-descend"),
        pytest.param(b"0\t0\t0\tabc", id="last-line-cut"),
        pytest.param(b"\xff\xfe", id="not-text"),
    ],
)
def test_a_damaged_index_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptData, match='could not read index "base"'):
        decode_index(data, "base")


def test_an_index_cut_within_a_line_is_refused() -> None:
    whole = b"0\t10\t0\tbackup_label\n1024\t5000\t0\tbase/1/PG_VERSION\n7168\t0\t0\tx\n"
    for length in range(1, len(whole)):
        if whole[length - 1] == ord("\n"):
            assert len(decode_index(whole[:length], "x")) == whole[:length].count(b"\n")
        else:
            with pytest.raises(CorruptData):
                decode_index(whole[:length], "x")


def test_an_archive_that_ends_inside_a_member_is_refused() -> None:
    end = CheckedSink()
    with pytest.raises(CorruptData, match=r'"base\.tar": it ends inside a member'):
        send(TarIndex(end, lambda name, index: None), {"base.tar": archive()[:1000]})
    assert end.is_clean
    assert end.archives == {}
