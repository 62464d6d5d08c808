"""What the guard tells of a slot, and what it demands, follows from the states that it sees."""

import pytest

from pgbackup.archiving.receiver.slotguard import SlotCap, SlotGuard
from pgbackup.errors import ConnectionFailed, NotFound, PgbackupError
from pgbackup.pg.lsn import Lsn
from pgbackup.replication.slotstate import SlotState, WalStatus

MIB = 1 << 20
Seen = SlotState | PgbackupError


def state(status: WalStatus | None = WalStatus.RESERVED, retained: int = 0) -> SlotState:
    end = Lsn(1 << 40)
    return SlotState("own", "physical", True, Lsn(end - retained), status, None, end)


def guard(
    seen: list[Seen], cap: SlotCap | None = None, *, tells_blindness: bool = True
) -> tuple[SlotGuard, list[str]]:
    told: list[str] = []

    def look() -> SlotState:
        found = seen.pop(0)
        if isinstance(found, PgbackupError):
            raise found
        return found

    return SlotGuard("own", look, cap, told.append, tells_blindness=tells_blindness), told


def test_each_change_is_told_once() -> None:
    steps: list[Seen] = [
        state(status)
        for status in (
            None, WalStatus.RESERVED, WalStatus.EXTENDED, WalStatus.EXTENDED,
            WalStatus.UNRESERVED, WalStatus.UNRESERVED, WalStatus.RESERVED, WalStatus.RESERVED,
        )
    ]  # fmt: skip
    watched, told = guard(list(steps))
    for _ in steps:
        watched.look()
    assert [text.split(":")[0 if "again" in text else 1].strip() for text in told] == [
        'slot "own" is extended',
        'slot "own" is unreserved',
        'slot "own" is reserved again',
    ]
    assert not watched.must_stop


@pytest.mark.parametrize(("releases", "demanded"), [(False, False), (True, True)])
def test_only_a_cap_that_releases_demands_a_stop(releases: bool, demanded: bool) -> None:
    cap = SlotCap(2 * MIB, releases)
    watched, told = guard([state(retained=2 * MIB), *[state(retained=3 * MIB)] * 2, state()], cap)
    watched.look()
    assert not watched.must_stop
    assert told == []
    for _ in range(2):
        watched.look()
        assert watched.must_stop is demanded
    watched.look()
    assert not watched.must_stop
    assert ["over its cap of 2 MB" in text for text in told] == [True, False]
    assert "within its cap again" in told[1]


def test_a_lost_slot_demands_a_stop() -> None:
    watched, told = guard([state(WalStatus.LOST)])
    watched.look()
    assert watched.is_lost
    assert watched.must_stop
    assert len(told) == 1


@pytest.mark.parametrize(
    ("tells", "cap", "count"),
    [(True, None, 1), (False, None, 0), (False, SlotCap(MIB), 1)],
    ids=["service", "cron", "cron-with-a-cap"],
)
def test_blindness_is_told_once_where_it_matters(
    tells: bool, cap: SlotCap | None, count: int
) -> None:
    watched, told = guard([ConnectionFailed("no way")] * 3, cap, tells_blindness=tells)
    for _ in range(3):
        watched.look()
    assert [text for text in told if "no way" in text] == told
    assert len(told) == count


def test_a_slot_that_is_not_there_is_for_the_receiver_to_tell() -> None:
    watched, told = guard([NotFound("none")])
    watched.look()
    assert told == []
    assert not watched.must_stop
