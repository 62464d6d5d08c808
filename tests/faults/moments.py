"""Random moments of a run, and a run that is stopped there.

A run begins here when it takes signals: all it does before is to load Python modules.

PGBACKUP_KILLS sets how many moments are tried, six without it; PGBACKUP_KILL_SEED repeats what
the report of a failure names.
"""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

from tests.cli.program import Running
from tests.waiting import wait_for

KILLS = int(os.environ.get("PGBACKUP_KILLS", "6"))
SEED = int(os.environ.get("PGBACKUP_KILL_SEED", random.randrange(1 << 32)))


def moments() -> list[float]:
    """Parts of a run's time, in equal steps with some chance in each."""
    print(f"PGBACKUP_KILL_SEED={SEED}")
    chance = random.Random(SEED)
    return [(step + chance.random()) / KILLS for step in range(KILLS)]


def duration(run: Running) -> float:
    """How many seconds a run takes that nobody stops."""
    wait_for(lambda: takes_signals(run))
    began = time.monotonic()
    assert run.wait().status == 0
    return time.monotonic() - began


def ends_within(run: Running, seconds: float) -> bool:
    """Wait so long, or less if the run ends by itself."""
    wait_for(lambda: takes_signals(run))
    try:
        run.process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def takes_signals(run: Running) -> bool:
    """Whether a run has come so far that it handles signals itself, or has ended.

    Before that Python does, which ends with a traceback at SIGINT.
    """
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    is_caught = caught is not None and int(caught[1], 16) & 1 << signal.SIGTERM - 1 != 0
    return is_caught or run.process.poll() is not None
