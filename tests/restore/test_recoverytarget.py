"""One target, of one kind, and only what recovery can compare with."""

from datetime import UTC, datetime

import pytest

from pgbackup.errors import UsageError
from pgbackup.pg.lsn import Timeline
from pgbackup.restore.recoverytarget import TargetKind, TargetWords, parse_timeline


@pytest.mark.parametrize(
    ("words", "kind", "value"),
    [
        (TargetWords(), TargetKind.END_OF_BACKUP, ""),
        (TargetWords(latest=True), TargetKind.END_OF_WAL, ""),
        (TargetWords(immediate=True), TargetKind.IMMEDIATE, "immediate"),
        (TargetWords(time="2026-11-22 16:42+00"), TargetKind.TIME, "2026-11-22 16:42:00+00"),
        (TargetWords(lsn=" 0/300002a"), TargetKind.LSN, "0/300002A"),
        (TargetWords(xid="740"), TargetKind.XID, "740"),
        (TargetWords(xid="4294968036"), TargetKind.XID, "4294968036"),
        (TargetWords(name="before the 'upgrade'"), TargetKind.NAME, "before the 'upgrade'"),
    ],
)
def test_a_target_is_what_the_server_understands(
    words: TargetWords, kind: TargetKind, value: str
) -> None:
    target = words.parse(UTC)
    assert (target.kind, target.value) == (kind, value)
    assert target.is_inclusive


@pytest.mark.parametrize("inclusive", [True, False])
def test_times_positions_and_transactions_can_be_left_out_themselves(inclusive: bool) -> None:
    for words in (
        TargetWords(time="2026-11-22", inclusive=inclusive),
        TargetWords(lsn="0/1", inclusive=inclusive),
        TargetWords(xid="740", inclusive=inclusive),
    ):
        assert words.parse(UTC).is_inclusive is inclusive


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (TargetWords(time="2026-11-22", lsn="0/1"), "--target-time and --target-lsn"),
        (TargetWords(xid="740", name="x"), "--target-xid and --target-name"),
        (TargetWords(immediate=True, latest=True), "--target-immediate and --target-latest"),
        (TargetWords(time="soon"), "not of the form"),
        (TargetWords(lsn="3000028"), "not two hexadecimal numbers"),
        (TargetWords(lsn=""), "not two hexadecimal numbers"),
        (TargetWords(xid="x"), "not a number of 64 bits"),
        (TargetWords(xid="-1"), "not a number of 64 bits"),
        (TargetWords(xid=str(1 << 64)), "not a number of 64 bits"),
        (TargetWords(xid="2"), "no transaction has it"),
        (TargetWords(xid=str((1 << 32) + 1)), "no transaction has it"),
        (TargetWords(name=""), "from 1 to 63 bytes"),
        (TargetWords(name="ä" * 32), "from 1 to 63 bytes"),
        (TargetWords(inclusive=True), "they belong to"),
        (TargetWords(immediate=True, inclusive=False), "they belong to"),
        (TargetWords(name="x", inclusive=True), "they belong to"),
    ],
)
def test_targets_that_make_no_sense_are_refused(words: TargetWords, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        words.parse(UTC)


@pytest.mark.parametrize("text", ["latest", "current", "7"])
def test_a_timeline_is_named_as_postgresql_names_it(text: str) -> None:
    assert str(parse_timeline(text)) == text


@pytest.mark.parametrize("text", ["", "0", "-1", "newest", "4294967296", "0x2", "00000002.history"])
def test_other_timelines_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither latest, current, nor a number"):
        parse_timeline(text)


def test_a_timeline_of_many_digits_is_a_number() -> None:
    assert parse_timeline("4294967295") == Timeline(4294967295)


def test_a_time_is_kept_to_the_microsecond() -> None:
    target = TargetWords(time="2026-11-22 16:42:00.000001+00").parse()
    assert target.time == datetime(2026, 11, 22, 16, 42, 0, 1, tzinfo=UTC)
