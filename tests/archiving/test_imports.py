"""What the hooks load. PostgreSQL starts one for every file, so each module counts.

Which modules, and how many: how long they take is measured by scripts/bench/wal_push.py.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

import pgbackup
from pgbackup.archiving import marker
from pgbackup.archiving.prefetch import Prefetch
from tests.archiving.serverdir import ServerDirectory, segment
from tests.cli.program import environment

HEAVY = {
    "argparse",
    "asyncio",
    "concurrent.futures",
    "crc32c",
    "dataclasses",
    "datetime",
    "hashlib",
    "importlib.metadata",
    "inspect",
    "logging",
    "multiprocessing",
    "pathlib",
    "psycopg",
    "pydantic",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "tqdm",
    "typer",
    "urllib.parse",
}
LINE = re.compile(r"import time:\s+\d+ \|\s+\d+ \|\s+(\S+)")
OWN_MODULES = 40
"""Of pgbackup, that a hook may load."""


def imports(server: ServerDirectory, *words: str) -> set[str]:
    """Run a hook; every module that it loads.

    Without `site`: an installation in place loads a finder there, with half the standard library.
    """
    start = "from pgbackup.__main__ import main; main()"  # as the installed script does
    line = [sys.executable, "-S", "-X", "importtime", "-c", start, *words]
    folders = [str(Path(module.__file__).parents[1]) for module in (pgbackup, zstandard)]
    done = subprocess.run(
        line,
        cwd=server.path,
        env={**environment(), "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=False,
    )
    return set(LINE.findall(done.stderr))


@pytest.fixture
def pushed(server: ServerDirectory) -> ServerDirectory:
    server.make(segment(1))
    assert server.push(segment(1).name) == 0
    return server


@pytest.mark.parametrize(
    "words",
    [("wal-push", "pg_wal/{name}"), ("wal-get", "{name}", "pg_wal/RECOVERYXLOG")],
    ids=["push", "get"],
)
def test_a_hook_loads_nothing_heavy(pushed: ServerDirectory, words: tuple[str, ...]) -> None:
    names = [word.format(name=segment(1).name) for word in words]
    loaded = imports(pushed, names[0], "-B", str(pushed.repo), *names[1:])
    assert "pgbackup.repo.repository" in loaded
    assert not HEAVY & loaded
    assert sum(name.startswith("pgbackup") for name in loaded) <= OWN_MODULES


def test_a_file_that_was_pushed_ahead_needs_almost_nothing(
    server: ServerDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker, "_SETTLED", -1)
    server.make(segment(1))
    server.make(segment(2))
    assert server.push(segment(1).name) == 0
    note = server.spool / f"pushed.{segment(2).name}"
    assert note.exists()
    loaded = imports(server, "wal-push", "-B", str(server.repo), f"pg_wal/{segment(2).name}")
    assert not note.exists()
    assert {name for name in loaded if name.startswith("pgbackup")} == {
        "pgbackup",
        "pgbackup.__main__",
        "pgbackup.archiving",
        "pgbackup.archiving.command",
        "pgbackup.archiving.marker",
        "pgbackup.archiving.options",
        "pgbackup.archiving.spooldir",
    }
    assert not {"typing", "re", "enum", "contextlib"} & loaded


def test_a_segment_that_was_fetched_ahead_needs_almost_nothing(pushed: ServerDirectory) -> None:
    pushed.make(segment(2))
    assert pushed.push(segment(2).name) == 0
    pushed.spool.mkdir(mode=0o700, exist_ok=True)
    Prefetch(str(pushed.spool), str(pushed.repo)).fetch(segment(1).name)
    loaded = imports(
        pushed, "wal-get", "-B", str(pushed.repo), segment(2).name, "pg_wal/RECOVERYXLOG"
    )
    assert pushed.restored.exists()
    assert "pgbackup.archiving.fetched" in loaded
    assert not {"pgbackup.errors", "pgbackup.archiving.get", "zstandard"} & loaded
    assert not {"typing", "re", "enum", "contextlib"} & loaded


def test_a_heavy_module_would_be_noticed() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import dataclasses"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert {"dataclasses", "inspect"} <= set(LINE.findall(done.stderr)) & HEAVY
