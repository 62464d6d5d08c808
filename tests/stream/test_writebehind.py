"""The writer thread: order, errors in the owner, and no thread or buffer left."""

import signal
import threading
from collections.abc import Iterator

import pytest

from pgbackup.stream.writebehind import WriteBehind
from tests.waiting import PATIENCE


class Disk:
    """Takes bytes; can be held, and can fail from the n-th write on."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.pieces: list[bytes] = []
        self.threads: set[str] = set()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_writing = threading.Event()
        self._fail_at = fail_at

    def write(self, data: memoryview) -> None:
        self.threads.add(threading.current_thread().name)
        self.is_writing.set()
        assert self.may_go_on.wait(PATIENCE)
        if self._fail_at is not None and len(self.pieces) >= self._fail_at:
            raise OSError(28, "No space left on device")
        self.pieces.append(bytes(data))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def add(writer: WriteBehind, disk: Disk, content: bytes) -> None:
    offset = 0
    while offset < len(content):
        buffer = writer.buffer
        length = min(len(buffer), len(content) - offset)
        buffer[:length] = content[offset : offset + length]
        writer.add(length, disk.write)
        offset += length


def end(writer: WriteBehind, disk: Disk) -> None:
    writer.end(disk.write, lambda: None)
    writer.wait()


@pytest.mark.parametrize("length", [1, 7, 64, 65, 1000])
@pytest.mark.parametrize("size", [64, 1000])
def test_what_is_added_is_written_in_order(size: int, length: int) -> None:
    disk, writer = Disk(), WriteBehind(count=3, size=size)
    content = bytes(range(256)) * 40
    for offset in range(0, len(content), length):
        add(writer, disk, content[offset : offset + length])
    end(writer, disk)
    writer.close()
    assert b"".join(disk.pieces) == content
    assert all(len(piece) == size for piece in disk.pieces[:-1])
    assert disk.threads == {"write-behind"}


def test_nothing_is_written_before_a_buffer_is_full() -> None:
    disk, writer = Disk(), WriteBehind(count=2, size=100)
    add(writer, disk, b"x" * 99)
    writer.wait()
    assert disk.pieces == []
    add(writer, disk, b"y")
    writer.wait()
    assert disk.pieces == [b"x" * 99 + b"y"]
    writer.close()


def test_actions_run_between_the_writes_around_them() -> None:
    disk, writer = Disk(), WriteBehind(count=2, size=10)
    seen: list[int] = []
    add(writer, disk, b"a" * 25)
    writer.end(disk.write, lambda: seen.append(len(disk.pieces)))
    add(writer, disk, b"b" * 10)
    writer.then(lambda: seen.append(len(disk.pieces)))
    writer.wait()
    writer.close()
    assert disk.pieces == [b"a" * 10, b"a" * 10, b"a" * 5, b"b" * 10]
    assert seen == [3, 4]


def test_each_buffer_goes_to_the_target_it_was_added_for() -> None:
    first, second, writer = Disk(), Disk(), WriteBehind(count=3, size=8)
    add(writer, first, b"1" * 12)
    writer.end(first.write, lambda: None)
    add(writer, second, b"2" * 4)
    writer.end(second.write, lambda: None)
    writer.wait()
    writer.close()
    assert b"".join(first.pieces) == b"1" * 12
    assert b"".join(second.pieces) == b"2" * 4


def test_an_end_with_nothing_added_writes_nothing() -> None:
    disk, writer = Disk(), WriteBehind(count=2, size=8)
    end(writer, disk)
    writer.close()
    assert disk.pieces == []


def test_the_owner_goes_on_while_the_target_writes_and_then_waits() -> None:
    disk, writer = Disk(), WriteBehind(count=3, size=8)
    disk.may_go_on.clear()
    add(writer, disk, b"1" * 8)
    assert disk.is_writing.wait(PATIENCE)
    add(writer, disk, b"2" * 15)
    assert disk.pieces == []
    blocked = threading.Thread(target=add, args=(writer, disk, b"3"))
    blocked.start()
    blocked.join(0.05)
    assert blocked.is_alive(), "more was taken than the buffers hold"
    disk.may_go_on.set()
    blocked.join(PATIENCE)
    writer.wait()
    writer.close()
    assert disk.pieces == [b"1" * 8, b"2" * 8, b"2" * 7 + b"3"]


def test_the_error_of_the_target_is_raised_in_the_owner() -> None:
    disk, writer = Disk(fail_at=2), WriteBehind(count=3, size=8)
    with pytest.raises(OSError, match="No space left"):
        add(writer, disk, b"x" * 8000)
    writer.close()
    assert disk.pieces == [b"x" * 8] * 2


def test_nobody_waits_for_ever_once_the_target_has_failed() -> None:
    disk, writer = Disk(fail_at=0), WriteBehind(count=2, size=8)
    for _ in range(100):
        with pytest.raises(OSError, match="No space left"):
            add(writer, disk, b"x" * 64)
    writer.close()
    assert disk.pieces == []


def test_nothing_is_written_after_a_failed_write() -> None:
    """A hole in the middle of a file would be worse than its end missing."""
    disk, writer = Disk(fail_at=0), WriteBehind(count=3, size=8)
    actions: list[str] = []
    disk.may_go_on.clear()
    add(writer, disk, b"x" * 16)
    writer.then(lambda: actions.append("fsync"))
    disk.may_go_on.set()
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    healthy = Disk()
    with pytest.raises(OSError, match="No space left"):
        add(writer, healthy, b"y" * 8)
    with pytest.raises(OSError, match="No space left"):
        writer.end(healthy.write, lambda: actions.append("commit"))
    writer.close()
    assert healthy.pieces == []
    assert actions == []


def test_the_error_of_an_action_is_raised_in_the_owner() -> None:
    writer = WriteBehind(count=2, size=8)

    def fail() -> None:
        raise OSError(5, "Input/output error")

    writer.then(fail)
    with pytest.raises(OSError, match="Input/output"):
        writer.wait()
    with pytest.raises(OSError, match="Input/output"):
        writer.then(lambda: None)
    writer.close()


def test_close_gives_up_what_fills_no_buffer() -> None:
    disk, writer = Disk(), WriteBehind(count=2, size=8)
    add(writer, disk, b"x" * 11)
    writer.close()
    assert disk.pieces == [b"x" * 8]


def test_close_waits_for_what_was_put() -> None:
    disk, writer = Disk(), WriteBehind(count=4, size=8)
    disk.may_go_on.clear()
    add(writer, disk, b"x" * 24)
    closer = threading.Thread(target=writer.close)
    closer.start()
    disk.may_go_on.set()
    closer.join(PATIENCE)
    assert not closer.is_alive()
    assert disk.pieces == [b"x" * 8] * 3


def test_close_twice_is_close_once() -> None:
    writer = WriteBehind(count=2, size=8)
    writer.close()
    writer.close()


def test_an_interrupt_while_a_buffer_is_awaited_is_not_covered_by_another_error() -> None:
    class Ended(BaseException):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Ended

    going_on = threading.Event()
    behind = WriteBehind(count=2, size=8)

    def write(data: memoryview) -> None:
        going_on.wait(PATIENCE)

    def fill_all() -> None:
        try:
            for _ in range(3):
                behind.add(8, write)
        finally:
            going_on.set()
            behind.close()

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Ended):
            fill_all()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert threading.active_count() == 1
