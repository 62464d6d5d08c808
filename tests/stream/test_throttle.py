"""A link that lets a limited number of bytes a second pass, on a clock of its own."""

from pgbackup.stream.sink import LARGEST_ROOM, feed
from pgbackup.stream.throttle import Throttle
from tests.stream.checked_sink import CheckedSink, backup_state, send

MEGABYTE = 1 << 20


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_no_more_passes_than_the_rate_allows() -> None:
    clock, sink = Clock(), CheckedSink((LARGEST_ROOM,))
    link = Throttle(sink, MEGABYTE, clock=clock, pause=clock.pause)
    send(link, {"base.tar": bytes(10 * MEGABYTE)})
    assert sink.archives["base.tar"] == bytes(10 * MEGABYTE)
    assert 9.8 <= clock.now - 1000 <= 10


def test_a_slow_rate_is_not_made_up_for_by_large_pages() -> None:
    clock, waits = Clock(), list[float]()

    def pause(seconds: float) -> None:
        waits.append(seconds)
        clock.pause(seconds)

    sink = CheckedSink((4 * MEGABYTE,))
    send(Throttle(sink, 2 * MEGABYTE, clock=clock, pause=pause), {"base.tar": bytes(MEGABYTE)})
    assert max(waits) <= 0.25
    assert len(sink.archives["base.tar"]) == MEGABYTE


def test_time_in_which_nothing_came_is_not_saved_up() -> None:
    clock = Clock()
    link = Throttle(CheckedSink((LARGEST_ROOM,)), MEGABYTE, clock=clock, pause=clock.pause)
    link.begin_backup(backup_state())
    link.begin_archive("base.tar")
    clock.now += 100
    begin = clock.now
    feed(link, memoryview(bytes(MEGABYTE)))
    assert clock.now - begin >= 0.85
