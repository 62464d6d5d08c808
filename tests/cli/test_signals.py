"""A signal that asks the program to end does end it, wherever it comes."""

import signal
import subprocess
import sys

import pytest

INSIDE_A_FINALIZER = """
import signal, sys, threading
from pgbackup.cli import app

class Dying:
    def __del__(self):
        signal.raise_signal(int(sys.argv[1]))

app._interrupt_on_signals()
try:
    dying = Dying()
    del dying
    threading.Event().wait(20)
except app._Ended as end:
    sys.exit(f"ended by {end.signal.name}")
sys.exit("not ended")
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_finalizer_is_not_lost(number: signal.Signals) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INSIDE_A_FINALIZER, str(int(number))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stderr == f"ended by {number.name}\n"
