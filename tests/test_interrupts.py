"""Signals that are held back come when the block is left, and not before."""

import signal
import threading
from types import FrameType

import pytest

from pgbackup.errors import Interrupted
from pgbackup.interrupts import ENDING_SIGNALS, held_back


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_waits_for_the_end_of_the_block(number: signal.Signals) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted("enough")

    before = signal.signal(number, interrupt)
    steps = []
    try:
        with pytest.raises(Interrupted):  # noqa: PT012 - where in the block is the question
            with held_back():
                signal.raise_signal(number)  # other threads of a test run would take it otherwise
                steps.append("inside")
            steps.append("behind")
    finally:
        signal.signal(number, before)
    assert steps == ["inside"]
    assert not set(ENDING_SIGNALS) & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_thread_started_meanwhile_gets_none() -> None:
    masks: list[set[signal.Signals]] = []

    def look() -> None:
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))  # type: ignore[arg-type]

    thread = threading.Thread(target=look)
    with held_back():
        thread.start()
    thread.join()
    assert set(ENDING_SIGNALS) <= masks[0]
