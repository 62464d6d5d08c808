"""The round trip that scripts/quickstart shows, and that nothing is left of it.

Started as scripts/quickstart does, but in the environment that the tests run in: making another
one is scripts/make-venv's job, done already by whoever runs the tests in .venv.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "round_trip.py"
VERBS = ["backup", "list", "verify", "restore"]
CONTENTS = {"accounts": ("pg_default", 2, "aa"), "history": ("archive", 1, "bb")}


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Temporary directory for the script, which the account of the servers can pass."""
    directory = Path(tempfile.mkdtemp(prefix="pgb-tour-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def start(temporary: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, SCRIPT, *options], env=os.environ | {"TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def working_below(directory: Path) -> list[Path]:
    """Where live processes work, as far as that is below a directory."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            found.append(link.readlink())
    return [place for place in found if place.is_relative_to(directory)]


@pytest.mark.server
@pytest.mark.slow
def test_round_trip_restores_equal_data_and_keeps_the_repository_only(temporary):
    with start(temporary, "--keep") as script:
        output, _ = script.communicate(timeout=120)
    assert script.returncode == 0, output
    commands = [line for line in output.splitlines() if line.startswith("$ ")]
    ran = [next(word for word in line.split() if word in VERBS) for line in commands]
    assert ran == VERBS
    assert "the restored data equal the original's" in output
    (scratch,) = temporary.iterdir()
    assert [entry.name for entry in scratch.iterdir()] == ["repo"]
    assert working_below(temporary) == []


@pytest.mark.server
@pytest.mark.slow
def test_interrupted_round_trip_leaves_nothing(temporary):
    with start(temporary) as script:
        assert script.stdout is not None
        seen = []
        for line in script.stdout:
            seen.append(line)
            if line.startswith("$ ") and " restore " in line:
                break
        assert working_below(temporary), "".join(seen)
        script.send_signal(signal.SIGINT)
        rest, _ = script.communicate(timeout=60)
    assert script.returncode == 128 + signal.SIGINT, rest
    assert list(temporary.iterdir()) == []
    assert working_below(temporary) == []


@pytest.fixture
def round_trip(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("round_trip", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equal_contents_are_accepted(round_trip):
    round_trip.compare(CONTENTS, CONTENTS, dict(CONTENTS))


@pytest.mark.parametrize(
    "restored",
    [
        pytest.param(CONTENTS | {"history": ("archive", 1, "bc")}, id="other row"),
        pytest.param(CONTENTS | {"history": ("pg_default", 1, "bb")}, id="other tablespace"),
        pytest.param({"accounts": CONTENTS["accounts"]}, id="missing table"),
        pytest.param(CONTENTS | {"more": ("pg_default", 0, "")}, id="extra table"),
    ],
)
def test_any_difference_fails_the_round_trip(round_trip, restored):
    with pytest.raises(round_trip.Failed, match="DIFFER"):
        round_trip.compare(CONTENTS, CONTENTS, restored)


def test_original_that_changed_meanwhile_fails_the_round_trip(round_trip):
    changed = CONTENTS | {"accounts": ("pg_default", 3, "cc")}
    with pytest.raises(round_trip.Failed, match="original changed"):
        round_trip.compare(CONTENTS, changed, CONTENTS)
