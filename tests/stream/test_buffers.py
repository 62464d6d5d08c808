"""The pool: alignment, headroom, back-pressure, and nothing lost or given back twice."""

import ctypes
import threading

import pytest

from pgbackup.stream.buffers import BufferPool, release_all
from tests.waiting import PATIENCE


@pytest.mark.parametrize("headroom", [0, 1, 25, 4096])
@pytest.mark.parametrize("alignment", [8, 16, 512, 4096, 65536])
@pytest.mark.parametrize("size", [1, 8191, 8192])
def test_buffers_are_aligned_and_stand_behind_their_headroom(
    size: int, alignment: int, headroom: int
) -> None:
    with BufferPool(3, size, alignment=alignment, headroom=headroom) as pool:
        buffers = [pool.acquire() for _ in range(3)]
        for buffer in buffers:
            assert buffer.address % alignment == 0
            assert len(buffer.view) == size
            assert len(buffer.headroom) == headroom
            assert len(buffer.framed) == headroom + size
            assert address(buffer.framed) + headroom == buffer.address
        release_all(buffers)


def address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def test_headroom_and_view_together_are_the_framed_view() -> None:
    with BufferPool(1, 4, headroom=3) as pool:
        buffer = pool.acquire()
        buffer.headroom[:] = b"abc"
        buffer.view[:] = b"defg"
        assert bytes(buffer.framed) == b"abcdefg"
        buffer.release()


def test_buffers_do_not_overlap() -> None:
    with BufferPool(4, 100, headroom=10) as pool:
        buffers = [pool.acquire() for _ in range(4)]
        for number, buffer in enumerate(buffers):
            buffer.framed[:] = bytes([number]) * 110
        assert [bytes(buffer.framed) for buffer in buffers] == [bytes([n]) * 110 for n in range(4)]
        release_all(buffers)


@pytest.mark.parametrize(
    ("count", "size", "alignment", "headroom"),
    [
        pytest.param(0, 1, 8, 0, id="no-buffer"),
        pytest.param(1, 0, 8, 0, id="no-byte"),
        pytest.param(1, 1, 8, -1, id="negative-headroom"),
        pytest.param(1, 1, 4, 0, id="less-than-maxalign"),
        pytest.param(1, 1, 24, 0, id="not-a-power-of-two"),
        pytest.param(1, 1, 0, 0, id="no-alignment"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(
    count: int, size: int, alignment: int, headroom: int
) -> None:
    with pytest.raises(ValueError, match=r"alignment|at least one"):
        BufferPool(count, size, alignment=alignment, headroom=headroom)


def test_acquire_waits_until_a_buffer_is_given_back() -> None:
    pool = BufferPool(2, 8)
    first, second = pool.acquire(), pool.acquire()
    asked, got = threading.Event(), threading.Event()

    def borrow() -> None:
        asked.set()
        buffer = pool.acquire()
        got.set()
        buffer.release()

    thread = threading.Thread(target=borrow)
    thread.start()
    assert asked.wait(PATIENCE)
    assert not got.wait(0.05), "a buffer came out of an empty pool"
    assert pool.lent == 2
    first.release()
    assert got.wait(PATIENCE)
    thread.join(PATIENCE)
    second.release()
    pool.close()


def test_a_fast_producer_is_held_to_the_pace_of_its_consumer() -> None:
    pool = BufferPool(3, 8)
    full: list[bytes] = []
    most = 0
    waiting = threading.Semaphore(0)
    borrowed = []

    def produce() -> None:
        for number in range(200):
            buffer = pool.acquire()
            buffer.view[:] = number.to_bytes(8, "big")
            borrowed.append(buffer)
            waiting.release()

    thread = threading.Thread(target=produce)
    thread.start()
    for _ in range(200):
        assert waiting.acquire(timeout=PATIENCE)
        most = max(most, len(borrowed))
        buffer = borrowed.pop(0)
        full.append(bytes(buffer.view))
        buffer.release()
    thread.join(PATIENCE)
    pool.close()
    assert full == [number.to_bytes(8, "big") for number in range(200)]
    assert most <= 3


def test_the_buffer_given_back_last_is_lent_first() -> None:
    with BufferPool(3, 8) as pool:
        buffers = [pool.acquire() for _ in range(3)]
        release_all(buffers)
        again = pool.acquire()
        assert again is buffers[-1]
        again.release()


def test_a_buffer_cannot_be_given_back_twice() -> None:
    pool = BufferPool(2, 8)
    buffer = pool.acquire()
    buffer.release()
    with pytest.raises(RuntimeError, match="released twice"):
        buffer.release()
    assert pool.lent == 0
    pool.close()


def test_a_leak_fails_the_close() -> None:
    pool = BufferPool(3, 8)
    buffer = pool.acquire()
    with pytest.raises(RuntimeError, match="1 of 3 page buffers were never released"):
        pool.close()
    buffer.release()
    pool.close()


def test_a_leak_does_not_hide_the_error_that_caused_it() -> None:
    def run() -> None:
        with BufferPool(1, 8) as pool:
            pool.acquire()
            raise KeyError("the cause")

    with pytest.raises(KeyError, match="the cause"):
        run()
