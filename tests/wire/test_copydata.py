"""Messages inside the COPY of a base backup: hostile names and lengths."""

import pytest

from pgbackup.errors import ProtocolViolation
from pgbackup.wire.copydata import (
    NewArchive,
    check_length,
    new_archive,
    parse_new_archive,
    progress,
)


def parse(payload: bytes) -> NewArchive:
    return parse_new_archive(memoryview(payload))


@pytest.mark.parametrize(
    ("payload", "archive"),
    [
        (b"nbase.tar\0\0", NewArchive("base.tar", "")),
        (b"n16384.tar\0/ts/one\0", NewArchive("16384.tar", "/ts/one")),
        (b"n16384.tar\0pg_tblspc/16384\0", NewArchive("16384.tar", "pg_tblspc/16384")),
        (b"n1.tar\0/ts/\xff\0", NewArchive("1.tar", "/ts/\udcff")),
    ],
    ids=["base", "tablespace", "in-place", "not-utf-8"],
)
def test_an_archive_is_announced_by_name_and_location(payload: bytes, archive: NewArchive) -> None:
    assert parse(payload) == archive
    assert new_archive(archive) == payload


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"..",
        b".",
        b".hidden",
        b"../base.tar",
        b"/etc/passwd",
        b"a/b.tar",
        b"base.tar/",
        b"a\\b.tar",
        b"..\\base.tar",
    ],
)
def test_a_name_that_is_no_plain_file_name_is_refused(name: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="unsafe name"):
        parse(b"n" + name + b"\0\0")


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"n", id="nothing"),
        pytest.param(b"nbase.tar", id="no-end-of-name"),
        pytest.param(b"nbase.tar\0", id="no-location"),
        pytest.param(b"nbase.tar\0/ts", id="no-end-of-location"),
        pytest.param(b"nbase.tar\0/ts\0x", id="bytes-behind"),
        pytest.param(b"nbase.tar\0/ts\0\0", id="a-string-too-many"),
    ],
)
def test_an_announcement_of_a_wrong_form_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="malformed"):
        parse(payload)


@pytest.mark.parametrize("length", [1, 2, 8, 10, 100_000])
def test_a_control_message_of_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(ProtocolViolation, match=f'"p" of {length} bytes where 9 are due'):
        check_length(memoryview(b"p" * length), 9)


def test_a_control_message_of_its_length_passes() -> None:
    check_length(memoryview(b"p" + bytes(8)), 9)


def test_progress_is_the_message_of_a_server() -> None:
    assert progress(0x3D6E00) == b"p\0\0\0\0\0\x3d\x6e\0"
    check_length(memoryview(progress(0)), 9)
