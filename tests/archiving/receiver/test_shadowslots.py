"""How far a slot on another server may go follows from its timeline and ours."""

import pytest

from pgbackup.archiving.receiver.shadowslots import ShadowSlots
from pgbackup.errors import ConnectionFailed
from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.replication.transport import CommandComplete, Host, Ready, ServerAddress, Transport
from tests.replication.transcript import Line, TranscriptTransport, row

SYSTEM = 7
HERE = ServerAddress("here", "", "5432")
END: list[Line] = [CommandComplete("X"), Ready()]


def identity(timeline: int, system: int = SYSTEM) -> list[Line]:
    return [row(str(system), str(timeline), "0/9000000", None), *END]


def slot(restart: str | None, *, active: str = "f", status: str = "reserved") -> list[Line]:
    return [row("physical", active, restart, status, None, "0/9000000"), *END]


def advance(flushed: WalPosition, *lines: Line) -> tuple[TranscriptTransport, list[str]]:
    transport = TranscriptTransport(lines)
    told: list[str] = []
    ShadowSlots("own", SYSTEM, [Host("there", lambda: transport)], told.append).advance(
        flushed, HERE
    )
    assert transport.is_over
    return transport, told


def position(timeline: int, lsn: str) -> WalPosition:
    return WalPosition(Timeline(timeline), Lsn.parse(lsn))


@pytest.mark.parametrize(
    ("timeline", "history", "flushed", "expected"),
    [
        pytest.param(1, None, position(1, "0/5000000"), "0/5000000", id="same-timeline"),
        pytest.param(
            2, "1\t0/4000000\tx\n", position(1, "0/5000000"), "0/4000000", id="it-switched-before"
        ),
        pytest.param(
            2, "1\t0/6000000\tx\n", position(1, "0/5000000"), "0/5000000", id="it-switched-behind"
        ),
    ],
)
def test_a_slot_goes_as_far_as_its_wal_is_ours(
    timeline: int, history: str | None, flushed: WalPosition, expected: str
) -> None:
    lines = identity(timeline)
    if history is not None:
        lines += [row(f"{timeline:08X}.history", history), *END]
    transport, told = advance(flushed, *lines, *slot("0/1000000"), row(expected), *END)
    assert f"'{expected}'" in transport.commands[-1]
    assert told == []


@pytest.mark.parametrize(
    ("lines", "flushed", "reason"),
    [
        pytest.param(identity(1, 8), position(1, "0/5000000"), "of system 8", id="other-system"),
        pytest.param(
            [*identity(3), row("00000003.history", "1\t0/4000000\tx\n"), *END],
            position(2, "0/5000000"), "does not come from timeline 2", id="other-branch",
        ),
        pytest.param(identity(1), position(2, "0/5000000"), "does not come from", id="left-behind"),
        pytest.param(
            [*identity(1), *slot("0/1000000", active="t")],
            position(1, "0/5000000"), "somebody uses it", id="in-use",
        ),
    ],
)  # fmt: skip
def test_a_slot_that_must_not_move_stays(
    lines: list[Line], flushed: WalPosition, reason: str
) -> None:
    transport, told = advance(flushed, *lines)
    assert not any("advance" in command for command in transport.commands)
    assert len(told) == 1
    assert reason in told[0]


def test_a_slot_that_is_ahead_is_left_alone() -> None:
    _, told = advance(position(1, "0/5000000"), *identity(1), *slot("0/5000000"))
    assert told == []


@pytest.mark.parametrize(
    ("restart", "status"), [("0/1000000", "lost"), (None, "reserved")], ids=["lost", "unused"]
)
def test_a_slot_that_holds_nothing_is_made_anew(restart: str | None, status: str) -> None:
    made = row("own", "0/0", None, None)
    transport, _ = advance(
        position(1, "0/5000000"), *identity(1), *slot(restart, status=status), *END, made, *END
    )
    assert transport.commands[-2:] == [
        'DROP_REPLICATION_SLOT "own"', 'CREATE_REPLICATION_SLOT "own" PHYSICAL (RESERVE_WAL)',
    ]  # fmt: skip


def test_one_trouble_is_told_once_and_hides_no_other_host() -> None:
    told: list[str] = []
    plays = [
        TranscriptTransport([*identity(1), *slot("0/1000000"), row("0/5000000"), *END])
        for _ in range(2)
    ]
    left = list(plays)

    def fail() -> Transport:
        raise ConnectionFailed("no route")

    slots = ShadowSlots(
        "own", SYSTEM, [Host("gone", fail), Host("there", lambda: left.pop())], told.append
    )
    for _ in range(2):
        slots.advance(position(1, "0/5000000"), HERE)
    assert all(each.is_over for each in plays)
    assert told == ['warning: slot "own" on gone stays where it is: no route']
