"""Random moments of a run, and a run that is stopped there.

PGBACKUP_KILLS sets how many moments are tried, six without it; PGBACKUP_KILL_SEED repeats what
the report of a failure names.
"""

import os
import random
import subprocess
import time

from tests.cli.program import Running

KILLS = int(os.environ.get("PGBACKUP_KILLS", "6"))
SEED = int(os.environ.get("PGBACKUP_KILL_SEED", random.randrange(1 << 32)))


def moments() -> list[float]:
    """Parts of a run's time, in equal steps with some chance in each."""
    print(f"PGBACKUP_KILL_SEED={SEED}")
    chance = random.Random(SEED)
    return [(step + chance.random()) / KILLS for step in range(KILLS)]


def duration(run: Running) -> float:
    """How many seconds a run takes that nobody stops."""
    began = time.monotonic()
    assert run.wait().status == 0
    return time.monotonic() - began


def ends_within(run: Running, seconds: float) -> bool:
    """Wait so long, or less if the run ends by itself."""
    try:
        run.process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
