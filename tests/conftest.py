"""Fixtures of all tests."""

import compileall
from pathlib import Path

import pytest

pytest_plugins = ["tests.fix_cluster", "tests.fix_receiver"]
"""New data directories, servers and receivers."""

ROOT = Path(__file__).parents[1]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the program once: tests run it thousands of times.

    Where PYTHONDONTWRITEBYTECODE is set each run would do it again, and take twice as long.
    """
    if not hasattr(session.config, "workerinput"):
        for package in ("pgbackup", "tests"):
            compileall.compile_dir(ROOT / package, quiet=2)
