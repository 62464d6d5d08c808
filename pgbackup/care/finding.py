"""A finding of `check`: one sentence, how bad it is, and what to type against it."""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple


class Severity(IntEnum):
    """How bad; the numbers are the exit statuses of a Nagios plugin."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


class Finding(NamedTuple):
    """What was looked at, and what is the matter with it.

    subject: a name that stays: a setting, or snake_case.
    text:    one sentence without full stop.
    fix:     a command or setting to type; empty if nothing is wrong.
    measure: a value for graphs, as Nagios writes performance data; or empty.
    """

    severity: Severity
    subject: str
    text: str
    fix: str = ""
    measure: str = ""


Findings = Iterator[Finding]


def fine(subject: str, text: str) -> Finding:
    """Nothing is wrong."""
    return Finding(Severity.OK, subject, text)


def warning(subject: str, text: str, fix: str) -> Finding:
    """Something will bring trouble one day."""
    return Finding(Severity.WARNING, subject, text, fix)


def critical(subject: str, text: str, fix: str) -> Finding:
    """Data would be lost, or are already."""
    return Finding(Severity.CRITICAL, subject, text, fix)


def worst(findings: Iterable[Finding]) -> Severity:
    """The worst severity that there is; OK if there is none."""
    return max((each.severity for each in findings), default=Severity.OK)
