"""Time commands in pairs, so that a machine whose speed drifts does not decide the result.

A and B run in turn, A B A B; the first pair is not counted. What is quoted is the median of the
ratios A/B, pair by pair, with their range. Wall time and CPU come from the operating system's own
account of each finished process (wait4, children included), peak memory is that of the largest
process.

Before each run memory of the needed size is touched and the source is read once: on virtual
machines a first touch costs seconds per gigabyte, and idle page cache goes away.
"""

import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHUNK = bytes(4 << 20)


@dataclass(frozen=True, slots=True)
class Run:
    """One finished process. wall, cpu: seconds; peak: bytes."""

    wall: float
    cpu: float
    peak: int


@dataclass(frozen=True, slots=True)
class Contender:
    """A command to time.

    prepare: makes its fresh target; called before each run, not timed.
    """

    name: str
    command: Sequence[str]
    prepare: Callable[[], object] = lambda: None
    environment: Mapping[str, str] | None = None


def run_once(contender: Contender) -> Run:
    """Run a command to its end. Raises: SystemExit when it fails, with what it said."""
    contender.prepare()
    started = time.monotonic()
    process = subprocess.Popen(
        contender.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=None if contender.environment is None else os.environ | contender.environment,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed: {shlex.join(contender.command)}\n{said.decode(errors='replace')}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def run_pairs(
    ours: Contender, peer: Contender, rounds: int, warm: Callable[[], object]
) -> tuple[list[Run], list[Run]]:
    """Run both in turn; one warm-up pair, then `rounds` counted ones."""
    one: list[Run] = []
    other: list[Run] = []
    for number in range(rounds + 1):
        for contender, runs in ((ours, one), (peer, other)):
            warm()
            run = run_once(contender)
            if number:
                runs.append(run)
    return one, other


def ratio_row(ours: Contender, peer: Contender, runs: tuple[list[Run], list[Run]]) -> list[str]:
    """A table row: medians, and the ratios pair by pair."""
    one, other = runs
    walls = [a.wall / b.wall for a, b in zip(one, other, strict=True)]
    cpus = [a.cpu / b.cpu for a, b in zip(one, other, strict=True)]
    return [
        ours.name,
        peer.name,
        f"{median(one, 'wall'):.2f}",
        f"{median(other, 'wall'):.2f}",
        f"{statistics.median(walls):.2f} ({min(walls):.2f}-{max(walls):.2f})",
        f"{median(one, 'cpu'):.2f}",
        f"{median(other, 'cpu'):.2f}",
        f"{statistics.median(cpus):.2f}",
        f"{max(run.peak for run in one) >> 20}",
    ]


HEADINGS = ("ours", "peer", "wall s", "peer s", "ratio", "cpu s", "peer s", "ratio", "peak MB")


def median(runs: Sequence[Run], field: str) -> float:
    """The median of one figure."""
    return statistics.median(getattr(run, field) for run in runs)


def print_rows(rows: Sequence[Sequence[str]], headings: Sequence[str] = HEADINGS) -> None:
    """A table in Markdown, ready for the README."""
    print("| " + " | ".join(headings) + " |")
    print("|" + "---|" * len(headings))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def read_everything(directory: Path) -> None:
    """Read every file once, so that the page cache has it."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb", buffering=0) as file:
                while file.read(len(CHUNK)):
                    pass


def touch_memory(directory: Path, size: int) -> None:
    """Write and truncate a file, so that the next writer gets memory that was used just now."""
    path = directory / "touched"
    with path.open("wb", buffering=0) as file:
        for _ in range(size // len(CHUNK)):
            file.write(CHUNK)
    os.truncate(path, 0)
    path.unlink()


def machine() -> str:
    """One line about where this ran."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    cores = len(os.sched_getaffinity(0))
    return (
        f"{model}, {cores} cores, {memory} GiB, Linux {os.uname().release},"
        f" Python {sys.version.split()[0]}"
    )
