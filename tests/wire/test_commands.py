"""The text of each command, for servers before and from 15 on."""

import pytest

from pgbackup.errors import UsageError
from pgbackup.pg.lsn import Lsn, Timeline
from pgbackup.wire.basebackup import BaseBackup
from pgbackup.wire.commands import (
    Command,
    CreatePhysicalSlot,
    DropSlot,
    IdentifySystem,
    ReadSlot,
    Show,
    StartPhysicalReplication,
    TimelineHistory,
)
from pgbackup.wire.scanner import quote_identifier, quote_literal

LEGACY = [13, 14]
CURRENT = [15, 16, 17, 18]


@pytest.mark.parametrize("major", LEGACY + CURRENT)
@pytest.mark.parametrize(
    ("command", "text"),
    [
        pytest.param(IdentifySystem(), "IDENTIFY_SYSTEM", id="identify"),
        pytest.param(Show("wal_segment_size"), "SHOW wal_segment_size", id="show"),
        pytest.param(TimelineHistory(Timeline(10)), "TIMELINE_HISTORY 10", id="history"),
        pytest.param(
            CreatePhysicalSlot("a"), 'CREATE_REPLICATION_SLOT "a" PHYSICAL', id="lasting-slot"
        ),
        pytest.param(
            CreatePhysicalSlot("a", temporary=True),
            'CREATE_REPLICATION_SLOT "a" TEMPORARY PHYSICAL',
            id="temporary-slot",
        ),
        pytest.param(DropSlot("a"), 'DROP_REPLICATION_SLOT "a"', id="drop"),
        pytest.param(DropSlot("a", wait=True), 'DROP_REPLICATION_SLOT "a" WAIT', id="drop-later"),
        pytest.param(ReadSlot("a"), 'READ_REPLICATION_SLOT "a"', id="read-slot"),
        pytest.param(
            StartPhysicalReplication(Lsn(0x1_0200_0000), Timeline(11)),
            "START_REPLICATION PHYSICAL 1/2000000 TIMELINE 11",
            id="start",
        ),
        pytest.param(
            StartPhysicalReplication(Lsn(0), Timeline(1), "standby_1"),
            'START_REPLICATION SLOT "standby_1" PHYSICAL 0/0 TIMELINE 1',
            id="start-with-slot",
        ),
    ],
)
def test_most_commands_are_the_same_for_every_server(
    command: Command, text: str, major: int
) -> None:
    assert command.text(major) == text


def test_only_the_reservation_of_wal_has_two_forms() -> None:
    slot = CreatePhysicalSlot("a", temporary=True, reserve_wal=True)
    start = 'CREATE_REPLICATION_SLOT "a" TEMPORARY PHYSICAL'
    assert {slot.text(major) for major in LEGACY} == {f"{start} RESERVE_WAL"}
    assert {slot.text(major) for major in CURRENT} == {f"{start} (RESERVE_WAL)"}


EVERYTHING = BaseBackup(
    "it's",
    fast_checkpoint=True,
    progress=True,
    wal=True,
    wait=False,
    max_rate=32,
    tablespace_map=True,
    verify_checksums=False,
    manifest_checksums="SHA256",
)
NOTHING = BaseBackup("x", progress=False, wait=True, tablespace_map=False, manifest_checksums=None)


@pytest.mark.parametrize("major", LEGACY)
@pytest.mark.parametrize(
    ("command", "text"),
    [
        (BaseBackup("x"), "LABEL 'x' PROGRESS NOWAIT TABLESPACE_MAP MANIFEST 'yes'"
         " MANIFEST_CHECKSUMS 'CRC32C'"),
        (EVERYTHING, "LABEL 'it''s' PROGRESS FAST WAL NOWAIT MAX_RATE 32 TABLESPACE_MAP"
         " NOVERIFY_CHECKSUMS MANIFEST 'yes' MANIFEST_CHECKSUMS 'SHA256'"),
        (NOTHING, "LABEL 'x'"),
    ],
    ids=["defaults", "everything", "nothing"],
)  # fmt: skip
def test_base_backup_before_15_takes_words(command: BaseBackup, text: str, major: int) -> None:
    assert command.text(major) == f"BASE_BACKUP {text}"


@pytest.mark.parametrize("major", CURRENT)
@pytest.mark.parametrize(
    ("command", "text"),
    [
        (BaseBackup("x"), "LABEL 'x', PROGRESS, CHECKPOINT 'spread', WAIT false, TABLESPACE_MAP,"
         " MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C'"),
        (EVERYTHING, "LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAL, WAIT false, MAX_RATE 32,"
         " TABLESPACE_MAP, VERIFY_CHECKSUMS false, MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256'"),
        (NOTHING, "LABEL 'x', CHECKPOINT 'spread'"),
    ],
    ids=["defaults", "everything", "nothing"],
)  # fmt: skip
def test_base_backup_from_15_on_takes_options(command: BaseBackup, text: str, major: int) -> None:
    assert command.text(major) == f"BASE_BACKUP ({text})"


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        pytest.param("", "''", id="empty"),
        pytest.param("'", "''''", id="quote"),
        pytest.param("a', WAL, LABEL 'b", "'a'', WAL, LABEL ''b'", id="injection"),
        pytest.param("a\\'b\\", "'a\\''b\\'", id="backslash-is-literal"),
        pytest.param("größe\n", "'größe\n'", id="any-character"),
    ],
)
def test_in_a_literal_only_the_quote_is_doubled(value: str, quoted: str) -> None:
    assert quote_literal(value) == quoted


def test_a_nul_character_cannot_be_sent() -> None:
    with pytest.raises(UsageError, match="NUL"):
        quote_literal("a\0b")
    with pytest.raises(UsageError, match="NUL"):
        BaseBackup("a\0b").text(18)


@pytest.mark.parametrize("name", ["a", "slot", "Upper", "with space", "a'b", "a;b", "größe"])
def test_an_identifier_stands_in_double_quotes(name: str) -> None:
    assert quote_identifier(name) == f'"{name}"'


@pytest.mark.parametrize("name", ["", '"', 'a" PHYSICAL', 'a""b', "a\0"])
def test_what_the_scanner_has_no_escape_for_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a name that the replication grammar can express"):
        quote_identifier(name)
    with pytest.raises(UsageError):
        CreatePhysicalSlot(name).text(18)
