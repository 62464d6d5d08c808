"""Many runs of the program at the price of few: one process loads it, and forks for each.

For sweeps over damaged repositories and odd words, where starting Python would take longest. What
is about the process itself, its streams, signals and end, is for `program.run`.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

from tests.cli.program import TIMEOUT, Answer, checked, environment

Case = tuple[Path, Sequence[object]]
"""The current directory of a run, and its words."""
LONGEST = 60
"""Seconds after which one run counts as hanging."""


def run_all(scratch: Path, cases: Iterable[Case], **extra: str) -> list[Answer]:
    """Run each to its end, one after the other.

    scratch: a directory for their output.
    extra:   environment variables of all.
    """
    wanted = [[str(place), *map(str, words)] for place, words in cases]
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.batch", str(scratch)],
        input=json.dumps(wanted), env=environment(extra),
        capture_output=True, text=True, timeout=TIMEOUT + 10 * len(wanted), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [
        checked(status, (scratch / f"{n}.out").read_bytes(), (scratch / f"{n}.err").read_bytes())
        for n, status in enumerate(json.loads(done.stdout))
    ]


def _main(scratch: str) -> None:
    from pgbackup.cli import app  # noqa: PLC0415 - the other process needs none of it

    for name in app.VERBS:
        import_module(f"pgbackup.cli.{name.replace('-', '_')}")
    app.run(["list", "--bogus"])  # what typer loads with the first command line
    statuses = []
    for number, (place, *words) in enumerate(json.load(sys.stdin)):
        pid = os.fork()
        if pid == 0:
            _redirect(f"{scratch}/{number}")
            os.chdir(place)
            sys.argv = ["pgbackup", *words]
            sys.exit(app.run(words))
        statuses.append(_wait(pid))
    print(json.dumps(statuses))


def _wait(pid: int) -> int:
    """The exit status of a run; one that hangs is killed."""
    signal.signal(signal.SIGALRM, lambda number, frame: os.kill(pid, signal.SIGKILL))
    signal.alarm(LONGEST)
    status = os.waitpid(pid, 0)[1]
    signal.alarm(0)
    return os.waitstatus_to_exitcode(status)


def _redirect(path: str) -> None:
    for descriptor, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, f"{path}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, f"{path}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(name, flags, 0o600), descriptor)


if __name__ == "__main__":
    _main(sys.argv[1])
