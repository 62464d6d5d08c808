"""Control files of all supported servers, and damage to them."""

import struct
from pathlib import Path

import pytest

from pgbackup.errors import CorruptData
from pgbackup.pg.control import ClusterState, ControlFile, WalLevel
from pgbackup.pg.crc32c import crc32c
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition

DATA = Path(__file__).parent / "data"
CRC_OFFSET = {13: 288, 14: 288, 15: 288, 16: 288, 17: 288, 18: 292}


def control_data(major: int | str) -> bytes:
    """The first 512 bytes of a control file, the rest being zeros."""
    return (DATA / f"pg_control_{major}").read_bytes()


def changed(major: int, offset: int, data: bytes) -> bytes:
    """Change a control file and give it the right checksum again."""
    control = bytearray(control_data(major))
    control[offset : offset + len(data)] = data
    end = CRC_OFFSET[major]
    struct.pack_into("<I", control, end, crc32c(control[:end]))
    return bytes(control)


# What pg_control_system(), pg_control_checkpoint() and pg_control_init() of the same cluster said,
# each initialized with another WAL segment size.
@pytest.mark.parametrize(
    ("major", "identifier", "version", "catalog", "checkpoint", "redo", "xid", "mib", "checksums"),
    [
        (13, 7711075377583810970, 1300, 202007201, "0/939988", "0/939950", 487, 1, 1),
        (14, 7711075385358227983, 1300, 202107181, "0/91C790", "0/91C758", 735, 2, 0),
        (15, 7711075393097902746, 1300, 202209061, "0/B6F7F8", "0/B6F7C0", 726, 4, 1),
        (16, 7711075400979069779, 1300, 202307071, "0/D0E110", "0/D0E0D8", 732, 8, 0),
        (17, 7711075408311020478, 1700, 202406281, "0/1750DB0", "0/1750D58", 740, 16, 1),
        (18, 7711075415518290053, 1800, 202506291, "0/25356A8", "0/2535650", 754, 32, 0),
    ],
)
def test_control_file_of_a_running_primary(
    major: int,
    identifier: int,
    version: int,
    catalog: int,
    checkpoint: str,
    redo: str,
    xid: int,
    mib: int,
    checksums: int,
) -> None:
    control = ControlFile.parse(control_data(major))
    start_of_run = 1795374640
    assert start_of_run < control.checkpoint_time <= control.time < start_of_run + 15
    assert control == ControlFile(
        system_identifier=identifier,
        control_version=version,
        catalog_version=catalog,
        state=ClusterState.IN_PRODUCTION,
        time=control.time,
        checkpoint=Lsn.parse(checkpoint),
        redo=WalPosition(Timeline(1), Lsn.parse(redo)),
        previous_timeline=Timeline(1),
        full_page_writes=True,
        next_xid=xid,
        checkpoint_time=control.checkpoint_time,
        min_recovery_point=None,
        backup_start=Lsn(0),
        backup_end=Lsn(0),
        backup_end_required=False,
        wal_level=WalLevel.LOGICAL,
        wal_log_hints=False,
        max_connections=33,
        max_worker_processes=9,
        max_wal_senders=7,
        max_prepared_transactions=3,
        max_locks_per_transaction=77,
        track_commit_timestamp=False,
        block_size=8192,
        relation_segment_blocks=131072,
        wal_block_size=8192,
        wal_segment_size=mib << 20,
        data_checksum_version=checksums,
    )


def test_control_file_of_a_standby_has_a_minimum_recovery_point() -> None:
    control = ControlFile.parse(control_data("15_standby"))
    assert control.state is ClusterState.IN_ARCHIVE_RECOVERY
    assert control.min_recovery_point == WalPosition(Timeline(1), Lsn.parse("0/E35250"))


def test_recovery_of_a_backup_is_visible() -> None:
    data = changed(15, 152, struct.pack("<QQ?", 0x2000028, 0x2000100, True))
    control = ControlFile.parse(data)
    assert control.backup_start == Lsn.parse("0/2000028")
    assert control.backup_end == Lsn.parse("0/2000100")
    assert control.backup_end_required


@pytest.mark.parametrize("major", sorted(CRC_OFFSET))
def test_whole_file_may_be_given(major: int) -> None:
    data = control_data(major)
    assert ControlFile.parse(data.ljust(8192, b"\0")) == ControlFile.parse(data)


@pytest.mark.parametrize("major", sorted(CRC_OFFSET))
def test_any_changed_bit_is_noticed(major: int) -> None:
    data = control_data(major)
    for at in range(CRC_OFFSET[major] + 4):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(CorruptData):
            ControlFile.parse(bytes(damaged))


@pytest.mark.parametrize("major", sorted(CRC_OFFSET))
def test_short_file_is_refused(major: int) -> None:
    for length in (0, 1, 8, 11, 100, CRC_OFFSET[major] + 3):
        with pytest.raises(CorruptData, match=f"{length} bytes are too few"):
            ControlFile.parse(control_data(major)[:length])


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        pytest.param(8, struct.pack("<I", 1201), "older than PostgreSQL 13", id="version 12"),
        pytest.param(8, struct.pack("<I", 1900), "version 1900 is not known", id="version 19"),
        pytest.param(8, struct.pack(">I", 1300), "big-endian machine", id="big-endian"),
        pytest.param(8, bytes(4), "older than PostgreSQL 13", id="zeros"),
        pytest.param(16, struct.pack("<i", 7), "unknown ClusterState 7", id="state"),
        pytest.param(16, struct.pack("<i", -1), "unknown ClusterState -1", id="negative state"),
        pytest.param(48, bytes(4), "could not use timeline", id="timeline zero"),
        pytest.param(136, b"\1", "could not use timeline", id="recovery point on timeline zero"),
        pytest.param(172, struct.pack("<i", 3), "unknown WalLevel 3", id="WAL level"),
        pytest.param(204, struct.pack("<I", 4), "another kind of machine", id="alignment"),
        pytest.param(208, struct.pack(">d", 1234567.0), "another kind of machine", id="floats"),
        pytest.param(228, struct.pack("<I", 3 << 20), "WAL segment size", id="segment size"),
    ],
)
def test_impossible_value_is_refused(offset: int, value: bytes, reason: str) -> None:
    with pytest.raises(CorruptData, match=reason):
        ControlFile.parse(changed(15, offset, value))


def test_unknown_version_says_what_to_do() -> None:
    with pytest.raises(CorruptData) as caught:
        ControlFile.parse(changed(18, 8, struct.pack("<I", 1900)))
    assert caught.value.hint is not None
