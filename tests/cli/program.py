"""The program as users run it: a process of its own, judged by its output and exit status."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.account import program_environment

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 120.0
"""Seconds after which a run counts as hanging."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a finished run gave."""

    status: int
    out: bytes
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on standard output."""
        return json.loads(self.out)

    def error(self) -> tuple[str, str]:
        """The error and its hint. Asserts that there is one of the first, in one sentence."""
        errors = [line for line in self.lines if line.startswith("pgbackup: error: ")]
        hints = [line for line in self.lines if line.startswith("HINT: ")]
        assert len(errors) == 1, self.err
        assert len(hints) <= 1, self.err
        message = errors[0].removeprefix("pgbackup: error: ")
        assert message, self.err
        assert not message.endswith("."), self.err
        return message, hints[0].removeprefix("HINT: ") if hints else ""

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


class Running:
    """A run under way. Its output goes into files, so that it never waits for a reader."""

    def __init__(self, directory: Path, line: list[str], extra: dict[str, str]):
        self._err = directory / f"{os.urandom(4).hex()}.err"
        self._out = self._err.with_suffix(".out")
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                line, cwd=directory, env=environment(extra),
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip

    @property
    def told(self) -> str:
        """What it has said so far on standard error."""
        return self._err.read_text()

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> Answer:
        """Wait for the end; a run that hangs is killed and fails the test."""
        try:
            status = self.process.wait(TIMEOUT)
        finally:
            self.process.kill()
            self.process.wait()
        return checked(status, self._out.read_bytes(), self._err.read_bytes())


def command(*arguments: object) -> list[str]:
    """The words that start the program."""
    return [sys.executable, "-m", "pgbackup", *map(str, arguments)]


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The caller's environment without settings of libpq and of pgbackup."""
    kept = {k: v for k, v in program_environment().items() if not k.startswith("PGBACKUP")}
    return kept | {"PYTHONPATH": str(ROOT), "HOME": "/nonexistent"} | (extra or {})


def run(directory: Path, *arguments: object, **extra: str) -> Answer:
    """Run the program to its end.

    directory: the current directory of the run.
    extra:     environment variables.
    """
    return run_with_input(directory, b"", *arguments, **extra)


def run_with_input(directory: Path, data: bytes, *arguments: object, **extra: str) -> Answer:
    """Run the program to its end, with some bytes on its standard input."""
    done = subprocess.run(
        command(*arguments), cwd=directory, env=environment(extra),
        input=data, capture_output=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    return checked(done.returncode, done.stdout, done.stderr)


def succeed(directory: Path, *arguments: object, **extra: str) -> Answer:
    """Run the program, which must end with 0."""
    answer = run(directory, *arguments, **extra)
    assert answer.status == 0, answer.err + answer.out.decode(errors="replace")[-2000:]
    return answer


def begin(directory: Path, *arguments: object, **extra: str) -> Running:
    """Start a run; whoever starts it waits for it."""
    return Running(directory, command(*arguments), extra)


def begin_module(directory: Path, module: str, *arguments: object) -> Running:
    """Start a program of the tests that runs ours in another way."""
    return Running(directory, [sys.executable, "-m", module, *map(str, arguments)], {})


def checked(status: int, out: bytes, err: bytes) -> Answer:
    text = err.decode("utf-8", "surrogateescape")
    assert "Traceback" not in text, text
    assert "Exception ignored" not in text, text
    return Answer(status, out, text)
