"""How answers look: tables and JSON on standard output, messages and progress on standard error."""

import json
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TextIO

from pgbackup.cli.streams import is_utf8

if TYPE_CHECKING:
    from tqdm import tqdm

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_CONTROL = r"[\x00-\x1f\x7f-\x9f]"
_SPANS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def say(text: str) -> None:
    """A message for people, on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def say_error(message: str, *, detail: str | None = None, hint: str | None = None) -> None:
    """An error, in PostgreSQL's layout."""
    say(f"pgbackup: error: {message}")
    if detail:
        say(f"DETAIL: {detail}")
    if hint:
        say(f"HINT: {hint}")


def say_warning(message: str) -> None:
    """Something to look at, that did not stop the command."""
    say(f"pgbackup: warning: {message}")


def print_json(document: Any) -> None:
    """One JSON document, the whole answer."""
    print(json_text(document, sys.stdout, indent=2))


def json_text(document: Any, stream: TextIO, indent: int | None = None) -> str:
    """A document in the characters that a stream has."""
    return json.dumps(document, indent=indent, ensure_ascii=not is_utf8(stream))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under headings; numbers are the caller's business."""
    lines = [headings, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """One fact a line, names aligned."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name.ljust(width)}  {printable(value)}")


def printable(text: str) -> str:
    """A text without what would move a terminal's cursor or end the line: that is escaped."""
    return re.sub(_CONTROL, lambda found: found[0].encode("unicode_escape").decode(), text)


def format_size(size: int) -> str:
    """Bytes in the largest unit that leaves a number of at least 1; units of 1024 as PostgreSQL."""
    value = float(size)
    unit = _UNITS[0]
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def format_time(moment: datetime) -> str:
    """A time in UTC, as PostgreSQL writes it."""
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def format_age(age: timedelta) -> str:
    """A span of time, in the two largest units that it has."""
    seconds = max(0, int(age.total_seconds()))
    found: list[str] = []
    for unit, length in _SPANS:
        if seconds >= length or (unit == "s" and not found):
            found.append(f"{seconds // length} {unit}")
            seconds %= length
    return " ".join(found[:2])


class ProgressBar:
    """A Meter that draws a bar on standard error.

    wanted: True draws always, None only on a terminal, False never.
    """

    def __init__(self, title: str, wanted: bool | None) -> None:
        self._title = title
        self._is_drawn = sys.stderr.isatty() if wanted is None else wanted
        self._bar: tqdm[Any] | None = None

    def begin(self, total: int | None) -> None:
        if not self._is_drawn:
            return
        from tqdm import tqdm  # noqa: PLC0415 - slow to load, and nobody watches a cron job

        # Starting its monitor thread, tqdm catches whatever is raised, a signal's error included.
        tqdm.monitor_interval = 0
        # Its own lock is one between processes, whose module takes 25 ms to load.
        tqdm.set_lock(threading.RLock())
        self._bar = tqdm(
            desc=self._title,
            total=total,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            file=sys.stderr,
            mininterval=0.2,
        )

    def advance(self, length: int) -> None:
        if self._bar is not None:
            self._bar.update(length)

    def close(self) -> None:
        """Leave the finished bar on the screen."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress_bar(title: str, wanted: bool | None) -> Iterator[ProgressBar]:
    """A bar for the length of the block."""
    bar = ProgressBar(title, wanted)
    try:
        yield bar
    finally:
        bar.close()
