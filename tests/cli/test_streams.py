"""What becomes of answers and messages where they cannot be written, and where nobody listens."""

import subprocess
from pathlib import Path

import pytest

from pgbackup.pg.lsn import Segment, Timeline
from pgbackup.storage.local import LocalStorage
from tests.backup.sample import sample
from tests.cli.program import TIMEOUT, Answer, checked, command, environment, run

pytestmark = pytest.mark.slow

FAILED, USAGE, CONNECTION, NOT_FOUND = 1, 2, 3, 5
WAYS = {
    "closed": "{}>&-",
    "full": "{}>/dev/full",
    "reader-gone": "{}> >(exit)",
}
"""How a descriptor is made unusable, in the shell's words."""


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A directory in whose default repository there is a backup."""
    sample().put(LocalStorage(str(tmp_path / "pgbackup-repo")))
    return tmp_path


def run_with_gone(place: Path, gone: str, *words: str, **extra: str) -> Answer:
    """Run the program with some descriptors unusable.

    gone: redirections of the shell.
    """
    done = subprocess.run(
        ["bash", "-c", f'exec {gone}; wait $!; "$@"', "bash", *command(*words)],
        cwd=place, env=environment(extra), stdin=subprocess.DEVNULL, capture_output=True,
        timeout=TIMEOUT, check=False,
    )  # fmt: skip
    return checked(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("words", [("show",), ("--help",), ("--version",)], ids=" ".join)
@pytest.mark.parametrize(
    ("way", "reason"),
    [("closed", "bad file descriptor"), ("full", "no space left on device")],
)
def test_an_answer_that_cannot_be_written_is_an_error(
    stored: Path, words: tuple[str, ...], way: str, reason: str
) -> None:
    answer = run_with_gone(stored, WAYS[way].format(1), *words)
    assert answer.error() == (f"could not write to standard output: {reason}", "")
    assert answer.status == FAILED


def test_a_reader_that_has_gone_ends_a_verb_quietly(stored: Path) -> None:
    answer = run_with_gone(stored, WAYS["reader-gone"].format(1), "show")
    assert (answer.status, answer.err) == (FAILED, "")


@pytest.mark.parametrize("way", WAYS)
def test_messages_that_nobody_hears_change_nothing(stored: Path, way: str) -> None:
    answer = run_with_gone(stored, WAYS[way].format(2), "verify", "--progress")
    assert (answer.status, answer.out) == (0, b"")
    answer = run_with_gone(stored, WAYS[way].format(2), "show", "20200101T000000F", "--json")
    assert (answer.status, answer.out) == (NOT_FOUND, b"")


def test_a_verb_without_any_stream_does_its_work(stored: Path) -> None:
    before = {path: path.read_bytes() for path in stored.rglob("*") if path.is_file()}
    assert run_with_gone(stored, "<&- >&- 2>&-", "pin", "latest").status == 0
    (made,) = {path for path in stored.rglob("*") if path.is_file()} - set(before)
    assert made.name == "pin.json"
    assert all(path.read_bytes() == content for path, content in before.items())


def test_nobody_can_be_asked_for_a_password_where_there_is_no_input(tmp_path: Path) -> None:
    answer = run_with_gone(tmp_path, "<&-", "backup", "-h", "/nonexistent")
    assert answer.status == CONNECTION
    assert "could not connect" in answer.error()[0]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_document_is_one_in_every_encoding(stored: Path, encoding: str) -> None:
    reason = "Größe: 5 €, \udcff, \x1b[2J, 🐘, two\nlines"
    extra = {"PYTHONIOENCODING": encoding}
    run(stored, "pin", "latest", "--reason", reason)
    answer = run(stored, "show", "--json", **extra)
    assert answer.document["backup"]["pin"]["reason"] == reason
    shown = run(stored, "list", **extra).out
    assert shown.count(b"\n") == 2
    assert b"\x1b" not in shown
    assert run(stored, "show", "Ж", "--json", **extra).status == USAGE


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("list",), USAGE),
        (("wal-push", "-B", "repo", "segment"), USAGE),
        (("wal-get", "-B", "repo", Segment(Timeline(1), 1, 1 << 20).name, "target"), 255),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_current_directory_that_was_removed(
    tmp_path: Path, words: tuple[str, ...], status: int
) -> None:
    answer = run_with_gone(tmp_path, "; mkdir gone; cd gone; rmdir ../gone", *words)
    assert answer.status == status
    assert "the current directory" in answer.error()[0]
    assert not list(tmp_path.iterdir())
