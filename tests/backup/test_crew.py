"""A crew does all tasks, or ends with the first error."""

import signal
import threading
import zlib
from types import FrameType

import pytest

from pgbackup.backup.crew import Crew
from pgbackup.errors import CorruptData, Interrupted
from pgbackup.stream.progress import SilentMeter
from tests.waiting import PATIENCE


class CountingMeter(SilentMeter):
    def __init__(self) -> None:
        self.total = 0

    def advance(self, length: int) -> None:
        self.total += length


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_every_task_is_done_once(jobs: int) -> None:
    done: list[int] = []
    meter = CountingMeter()
    crew = Crew(jobs, meter)

    def task(number: int) -> None:
        done.append(number)
        crew.advance(number)

    crew.run([lambda number=number: task(number) for number in range(20)])
    assert sorted(done) == list(range(20))
    assert meter.total == sum(range(20))


def test_tasks_run_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=PATIENCE)
    crew = Crew(2, SilentMeter())
    crew.run([meeting.wait, meeting.wait])


def test_the_first_error_stops_the_others_and_is_raised() -> None:
    crew = Crew(2, SilentMeter())
    is_running = threading.Event()

    def endless() -> None:
        is_running.set()
        while True:
            crew.advance(1)

    def failing() -> None:
        is_running.wait(PATIENCE)
        raise CorruptData("damaged")

    with pytest.raises(CorruptData, match="damaged"):
        crew.run([endless, failing, endless])
    assert threading.active_count() == 1


def test_an_interrupt_in_the_caller_stops_all() -> None:
    crew = Crew(2, SilentMeter())

    def endless() -> None:
        while True:
            crew.advance(1)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted("enough")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupted):
            crew.run([endless, endless])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert threading.active_count() == 1


def test_no_task_outlives_an_interrupt() -> None:
    crew = Crew(1, SilentMeter())
    ended: list[int] = []

    def slow_to_end() -> None:
        try:
            while True:
                crew.advance(1)
        finally:
            ended.append(zlib.crc32(bytes(1 << 28)))

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted("enough")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupted):
            crew.run([slow_to_end])
        assert ended
    finally:
        signal.signal(signal.SIGALRM, before)
