"""The rate limit, on a clock of its own."""

from pgbackup.stream.sink import Sink
from pgbackup.stream.throttle import Throttle
from tests.stream.checked_sink import CheckedSink, backup_state, send
from tests.stream.link_contract import LinkContract


class Clock:
    """Time that passes only while somebody sleeps, or when told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


class TestThrottle(LinkContract):
    def link(self, successor: Sink) -> Sink:
        clock = Clock()
        return Throttle(successor, 32, clock=clock, sleep=clock.sleep)


def test_the_whole_takes_as_long_as_the_rate_says() -> None:
    clock = Clock()
    link = Throttle(CheckedSink([10_000]), 32, clock=clock, sleep=clock.sleep)
    send(link, {"base.tar": bytes(320 * 1024)}, bytes(32 * 1024))
    assert abs(clock.now - 100 - 11) < 0.2


def test_time_spent_idle_is_no_credit() -> None:
    clock = Clock()
    link = Throttle(CheckedSink([4096]), 32, clock=clock, sleep=clock.sleep)
    link.begin_backup(backup_state())
    link.begin_archive("base.tar")
    clock.now += 60
    link.archive_contents(4096)
    assert clock.slept == []
    link.archive_contents(4096)
    assert clock.slept == [1 / 8]


def test_deferred_contents_count() -> None:
    clock = Clock()
    link = Throttle(CheckedSink([64 * 1024]), 32, clock=clock, sleep=clock.sleep)
    link.begin_backup(backup_state())
    link.begin_archive("base.tar")
    link.archive_later(32 * 1024, lambda memory: None)
    assert clock.slept == [1.0]
