"""A segment is passed over only if recovery cannot stop in it."""

from datetime import UTC, datetime

import pytest

from pgbackup.pg.lsn import Segment, Timeline
from pgbackup.pg.walrecord import from_datetime
from pgbackup.repo.moments.walindex import SegmentNotes, WalIndex
from pgbackup.restore.recoverytarget import RecoveryTarget, TargetKind
from pgbackup.restore.stoppoint import passes
from tests.repo.samples import MIB

SEGMENT = Segment(Timeline(1), 7, MIB)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
NOTES = SegmentNotes(
    7, ends=3, low_time=0, high_time=from_datetime(NOON), low_xid=800, high_xid=900
)


@pytest.mark.parametrize(
    ("microsecond", "is_inclusive", "is_passed"),
    [(0, False, False), (0, True, True), (1, False, True), (1, True, True)],
    ids=["before-it", "after-it", "before-what-is-later", "after-what-is-later"],
)
def test_the_last_end_of_a_segment_may_be_at_the_very_time(
    microsecond: int, is_inclusive: bool, is_passed: bool
) -> None:
    time = NOON.replace(microsecond=microsecond)
    target = RecoveryTarget(TargetKind.TIME, time=time, is_inclusive=is_inclusive)
    assert passes(target, WalIndex({}))(SEGMENT, NOTES) is is_passed


@pytest.mark.parametrize(
    ("xid", "is_passed"),
    [(799, True), (800, False), (900, False), (901, True), ((1 << 32) + 850, False)],
)
def test_the_first_and_the_last_transaction_of_a_segment_may_be_meant(
    xid: int, is_passed: bool
) -> None:
    target = RecoveryTarget(TargetKind.XID, xid=xid)
    assert passes(target, WalIndex({}))(SEGMENT, NOTES) is is_passed
