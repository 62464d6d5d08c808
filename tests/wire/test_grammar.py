"""Commands from text: what stock clients send, every value and back, and anything at all."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgbackup.errors import ClientError
from pgbackup.pg.lsn import MAX_LSN, MAX_TIMELINE, Lsn, Timeline
from pgbackup.wire.basebackup import BaseBackup
from pgbackup.wire.commands import (
    AlterSlot,
    Command,
    CreateLogicalSlot,
    CreatePhysicalSlot,
    DropSlot,
    IdentifySystem,
    ReadSlot,
    Show,
    Snapshot,
    StartLogicalReplication,
    StartPhysicalReplication,
    TimelineHistory,
    UploadManifest,
)
from pgbackup.wire.compression import Compression
from pgbackup.wire.grammar import parse_command
from pgbackup.wire.options import ALGORITHMS

MAJORS = range(13, 19)
EXAMPLES = int(os.environ.get("PGBACKUP_FUZZ_EXAMPLES", "200"))

STREAMED = BaseBackup(
    "pg_basebackup base backup",
    fast_checkpoint=True,
    tablespace_map=False,
)


@pytest.mark.parametrize(
    ("majors", "text", "command"),
    [
        (MAJORS, "SHOW data_directory_mode", Show("data_directory_mode")),
        (MAJORS, "SHOW wal_segment_size", Show("wal_segment_size")),
        (MAJORS, "IDENTIFY_SYSTEM", IdentifySystem()),
        (MAJORS, "TIMELINE_HISTORY 12", TimelineHistory(Timeline(12))),
        (
            range(13, 15),
            "BASE_BACKUP LABEL 'pg_basebackup base backup' PROGRESS  FAST NOWAIT "
            "   MANIFEST 'yes' ",
            STREAMED,
        ),
        (
            range(15, 19),
            "BASE_BACKUP ( LABEL 'pg_basebackup base backup',  PROGRESS,  CHECKPOINT 'fast',"
            "  WAIT 0,  MANIFEST 'yes',  TARGET 'client')",
            STREAMED,
        ),
        (
            range(15, 19),
            "BASE_BACKUP ( LABEL 'it''s',  WAL,  WAIT 0,  MAX_RATE 20480,  TABLESPACE_MAP,"
            "  VERIFY_CHECKSUMS 0,  MANIFEST 'force-encode',  MANIFEST_CHECKSUMS 'sha256',"
            "  TARGET 'client',  COMPRESSION 'zstd',  COMPRESSION_DETAIL 'level=1,workers=2')",
            BaseBackup(
                "it's", progress=False, wal=True, max_rate=20480, verify_checksums=False,
                manifest_checksums="SHA256", force_encode=True,
                compression=Compression("zstd", 1, 2),
            ),
        ),
        (
            range(17, 19),
            "BASE_BACKUP ( INCREMENTAL, LABEL 'x',  TARGET 'server',  TARGET_DETAIL '/b')",
            BaseBackup(
                "x", progress=False, wait=True, tablespace_map=False, manifest_checksums=None,
                incremental=True, target="server", target_detail="/b",
            ),
        ),
        (
            MAJORS,
            'CREATE_REPLICATION_SLOT "pg_basebackup_1" TEMPORARY PHYSICAL RESERVE_WAL',
            CreatePhysicalSlot("pg_basebackup_1", temporary=True, reserve_wal=True),
        ),
        (
            range(15, 19),
            'CREATE_REPLICATION_SLOT "pg_basebackup_1" TEMPORARY PHYSICAL ( RESERVE_WAL)',
            CreatePhysicalSlot("pg_basebackup_1", temporary=True, reserve_wal=True),
        ),
        (MAJORS, 'CREATE_REPLICATION_SLOT "rw1" PHYSICAL', CreatePhysicalSlot("rw1")),
        (MAJORS, 'DROP_REPLICATION_SLOT "rw1"', DropSlot("rw1")),
        (range(15, 19), "READ_REPLICATION_SLOT rw1", ReadSlot("rw1")),
        (
            MAJORS,
            'START_REPLICATION SLOT "rw1" 0/5000000 TIMELINE 1',
            StartPhysicalReplication(Lsn(0x5000000), Timeline(1), "rw1"),
        ),
        (
            MAJORS,
            "START_REPLICATION A/C5000000 TIMELINE 17",
            StartPhysicalReplication(Lsn.parse("A/C5000000"), Timeline(17)),
        ),
        (
            MAJORS,
            'CREATE_REPLICATION_SLOT "lg" LOGICAL "pgoutput" NOEXPORT_SNAPSHOT',
            CreateLogicalSlot("lg", "pgoutput", snapshot=Snapshot.NOTHING),
        ),
        (
            range(17, 19),
            "CREATE_REPLICATION_SLOT \"lg\" LOGICAL \"pgoutput\" ( FAILOVER, SNAPSHOT 'nothing')",
            CreateLogicalSlot("lg", "pgoutput", snapshot=Snapshot.NOTHING, failover=True),
        ),
        (
            MAJORS,
            'START_REPLICATION SLOT "lg" LOGICAL 0/0 ("proto_version" \'1\', "streaming")',
            StartLogicalReplication("lg", Lsn(0), (("proto_version", "1"), ("streaming", None))),
        ),
        (
            range(17, 19),
            "ALTER_REPLICATION_SLOT lg ( FAILOVER true )",
            AlterSlot("lg", failover=True),
        ),
        (range(17, 19), "UPLOAD_MANIFEST", UploadManifest()),
    ],
)  # fmt: skip
def test_what_stock_clients_send_is_understood(majors: range, text: str, command: Command) -> None:
    for major in majors:
        assert parse_command(text, major) == command


LABELS = st.text(st.characters(exclude_characters="\0"), max_size=40)
NAMES = st.text(st.characters(exclude_characters='\0"'), min_size=1, max_size=15)
POSITIONS = st.integers(0, MAX_LSN).map(Lsn)
TIMELINES = st.integers(1, MAX_TIMELINE).map(Timeline)
COMPRESSIONS = st.one_of(
    st.none(),
    st.builds(Compression, st.just("gzip"), st.none() | st.integers(1, 9)),
    st.builds(Compression, st.just("lz4"), st.none() | st.integers(1, 12)),
    st.builds(
        Compression, st.just("zstd"), st.none() | st.integers(-131072, 22),
        st.none() | st.integers(0, 999),
    ),
)  # fmt: skip
LONG = st.builds(Compression, st.just("zstd"), long=st.booleans())
TARGETS = st.sampled_from([("client", None), ("blackhole", None), ("server", "/b")])


@st.composite
def base_backups(draw: st.DrawFn, major: int) -> BaseBackup:
    checksums = draw(st.none() | st.sampled_from(ALGORITHMS))
    booleans = {
        name: draw(st.booleans())
        for name in (
            "fast_checkpoint", "progress", "wal", "wait", "tablespace_map", "verify_checksums",
        )
    }  # fmt: skip
    target, detail = draw(TARGETS) if major >= 15 else ("client", None)
    compressions = COMPRESSIONS | LONG if major >= 16 else COMPRESSIONS
    return BaseBackup(
        draw(LABELS),
        **booleans,
        max_rate=draw(st.none() | st.integers(32, 1048576)),
        manifest_checksums=checksums,
        force_encode=checksums is not None and draw(st.booleans()),
        target=target,
        target_detail=detail,
        compression=draw(compressions) if major >= 15 else None,
        incremental=major >= 17 and draw(st.booleans()),
    )


def commands(major: int) -> st.SearchStrategy[Command]:
    """Every command that a server of this major knows, with everything it knows of it."""
    known = [
        st.just(IdentifySystem()),
        st.builds(Show, NAMES),
        st.builds(TimelineHistory, TIMELINES),
        st.builds(CreatePhysicalSlot, NAMES, st.booleans(), st.booleans()),
        st.builds(
            CreateLogicalSlot, NAMES, NAMES, st.booleans(), st.sampled_from(Snapshot),
            st.booleans() if major >= 15 else st.just(False),
            st.booleans() if major >= 17 else st.just(False),
        ),
        st.builds(DropSlot, NAMES, st.booleans()),
        st.builds(StartPhysicalReplication, POSITIONS, st.none() | TIMELINES, st.none() | NAMES),
        st.builds(
            StartLogicalReplication, NAMES, POSITIONS,
            st.lists(st.tuples(NAMES, st.none() | LABELS), max_size=3).map(tuple),
        ),
        base_backups(major),
    ]  # fmt: skip
    if major >= 15:
        known.append(st.builds(ReadSlot, NAMES))
    if major >= 17:
        both = st.none() | st.booleans() if major >= 18 else st.none()
        known += [st.builds(AlterSlot, NAMES, st.booleans(), both), st.just(UploadManifest())]
    return st.one_of(known)


@pytest.mark.parametrize("major", MAJORS)
def test_every_value_comes_back_from_its_text(major: int) -> None:
    @settings(max_examples=EXAMPLES, deadline=None)
    @given(commands(major))
    def comes_back(command: Command) -> None:
        text = command.text(major)
        assert parse_command(text, major) == command
        assert parse_command(f"\n {text} ;\t", major) == command

    comes_back()


@pytest.mark.parametrize(
    "text",
    [
        "TIMELINE_HISTORY 4294967297",
        "TIMELINE_HISTORY " + "9" * 5000,
        "START_REPLICATION 0/1000000 TIMELINE 4294967297",
        "START_REPLICATION 0/100000001",
        "START_REPLICATION 100000001/0",
        "BASE_BACKUP (MAX_RATE 4294967328)",
        "BASE_BACKUP (COMPRESSION 'zstd', COMPRESSION_DETAIL '4294967297')",
        "BASE_BACKUP (COMPRESSION 'zstd', COMPRESSION_DETAIL 'workers=" + "9" * 5000 + "')",
    ],
)
def test_a_number_that_a_server_would_cut_to_32_bits_is_refused(text: str) -> None:
    with pytest.raises(ClientError):
        parse_command(text, 18)


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_megabyte_of_quotes_is_refused_without_a_megabyte_of_thought(quote: str) -> None:
    for text in ("a" * 1_000_000, quote * 1_000_000, f"a{quote}{quote}" * 300_000):
        with pytest.raises(ClientError):
            parse_command(f"SHOW {quote}{text}", 18)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("a" * 64, "a" * 63),
        ("ä" * 32, "ä" * 31),
        ("a" * 61 + "€", "a" * 61),
        ("\udcff" * 70, "\udcff" * 63),
        ("A" * 63, "a" * 63),
        ("Ä", "Ä"),
    ],
    ids=["ascii", "two-bytes", "three-bytes", "not-utf-8", "not-too-long", "lower-is-ascii"],
)
def test_a_long_name_is_cut_to_63_bytes_of_whole_characters(name: str, left: str) -> None:
    assert parse_command(f"SHOW {name}", 18) == Show(left)


def test_a_label_is_as_long_as_a_path() -> None:
    assert parse_command(f"BASE_BACKUP (LABEL '{'ä' * 512}')", 18)
    with pytest.raises(ClientError, match=r"^backup label too long \(max 1024 bytes\)$") as caught:
        parse_command(f"BASE_BACKUP (LABEL '{'ä' * 512}x')", 18)
    assert caught.value.sqlstate == "22023"
