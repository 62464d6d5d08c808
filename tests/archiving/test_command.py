"""The command lines of the hooks: the short way of __main__, and what --help says of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pgbackup.archiving.options import DEFAULT_LEVEL, DEFAULT_TIMEOUT, Options, parse_options
from pgbackup.errors import UsageError
from tests.archiving.serverdir import ServerDirectory, segment
from tests.cli.program import run, succeed

HOOKS = ("wal-push", "wal-get")


def fields(options: Options) -> dict[str, object]:
    return vars(options)


@pytest.mark.parametrize(
    "words",
    [
        ["-B", "R", "-Z", "zstd:3", "-j", "2", "--spool", "S", "f"],
        ["-BR", "-Zzstd:3", "-j2", "--spool=S", "f"],
        ["--repo", "R", "--compress", "zstd:level=3", "--jobs", "2", "f", "--spool", "S"],
        ["--repo=R", "--compress=zstd:3", "--jobs=2", "--spool=S", "--", "f"],
    ],
    ids=["apart", "together", "long", "equals"],
)
def test_an_option_can_be_written_in_all_the_usual_ways(words: list[str]) -> None:
    options = parse_options("wal-push", words)
    assert (options.repo, options.level, options.jobs, options.spool) == ("R", 3, 2, "S")
    assert (options.paths, options.fault) == (["f"], None)


def test_the_repository_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGBACKUP_REPO", "E")
    assert parse_options("wal-push", ["f"]).repo == "E"
    assert parse_options("wal-push", ["-B", "R", "f"]).repo == "R"


def test_what_is_not_said_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGBACKUP_REPO", raising=False)
    push = parse_options("wal-push", ["-B", "R", "f"])
    get = parse_options("wal-get", ["-B", "R", "f", "p"])
    assert (push.level, push.spool, get.timeout) == (DEFAULT_LEVEL, None, DEFAULT_TIMEOUT)
    assert (get.partial, get.prefetch) == (False, True)


@pytest.mark.parametrize(
    ("verb", "words", "fault"),
    [
        ("wal-push", ["-B", "R"], "expected"),
        ("wal-push", ["-B", "R", "a", "b"], "2 names"),
        ("wal-push", ["a"], "no repository"),
        ("wal-push", ["-B", "", "a"], "no repository"),
        ("wal-push", ["-B"], "needs a value"),
        ("wal-push", ["-B", "R", "a", "--partial"], '"--partial"'),
        ("wal-push", ["-B", "R", "a", "-Z", "gzip"], '"gzip"'),
        ("wal-push", ["-B", "R", "a", "-Z", "zstd:0"], '"zstd:0"'),
        ("wal-push", ["-B", "R", "a", "-Z", "zstd:20"], '"zstd:20"'),
        ("wal-push", ["-B", "R", "a", "-Z", "zstd:"], '"zstd:"'),
        ("wal-push", ["-B", "R", "a", "-j", "0"], '"0"'),
        ("wal-push", ["-B", "R", "a", "-j", "x"], '"x"'),
        ("wal-get", ["-B", "R", "a", "b", "--timeout", "-1"], '"-1"'),
        ("wal-get", ["-B", "R", "a", "b", "--timeout", "nan"], '"nan"'),
        ("wal-get", ["-B", "R", "a", "b", "--timeout", "1000001"], "above 1000000 seconds"),
        ("wal-get", ["-B", "R", "a", "b", "-Z", "none"], '"-Z"'),
        ("wal-get", ["-B", "R", "a"], "%f and %p"),
    ],
)
def test_a_fault_is_named(
    monkeypatch: pytest.MonkeyPatch, verb: str, words: list[str], fault: str
) -> None:
    monkeypatch.delenv("PGBACKUP_REPO", raising=False)
    options = parse_options(verb, words)
    with pytest.raises(UsageError, match=re.escape(fault)):
        options.check()


@pytest.mark.parametrize("verb", HOOKS)
def test_help_names_every_option_of_the_short_way(tmp_path: Path, verb: str) -> None:
    text = succeed(tmp_path, verb, "--help").out.decode()
    assert text == succeed(tmp_path, verb, "-?").out.decode()
    options = text.partition("Options:")[2].partition("Exit status:")[0]
    shown = set(re.findall(r"(?<![\w-])--?[A-Za-z][a-z-]*", options)) - {"--help"}
    values = {"--repo": "R", "-B": "R", "--compress": "none", "-Z": "none", "--jobs": "1"}
    values |= {"-j": "1", "--spool": "S", "--timeout": "1"}
    assert "-B" in shown
    for name in shown:
        words = [name, values[name]] if name in values else [name]
        names = ["f"] if verb == "wal-push" else ["f", "p"]
        assert parse_options(verb, ["-B", "R", *words, *names]).fault is None, name


@pytest.mark.parametrize(("verb", "ending"), [("wal-push", "1 - 125"), ("wal-get", "255")])
def test_help_ends_with_the_exit_statuses_of_the_hook(
    tmp_path: Path, verb: str, ending: str
) -> None:
    text = succeed(tmp_path, verb, "--help").out.decode()
    assert ending in text.partition("Exit status:")[2]


def test_an_error_is_said_as_by_every_verb(tmp_path: Path) -> None:
    push = run(tmp_path, "wal-push", "-B", "R", "a", "b")
    assert 1 <= push.status <= 125
    assert push.error()[1] == "Type: pgbackup wal-push --help"
    get = run(tmp_path, "wal-get", "-B", "R")
    assert get.status == 255
    assert get.error()[1] == "Type: pgbackup wal-get --help"


def test_nobody_has_to_listen(server: ServerDirectory) -> None:
    """With standard error closed the answers are the same."""
    closed = [sys.executable, "-m", "pgbackup"]
    words = server.words("wal-get", "--timeout", "0", segment(1).name, "pg_wal/RECOVERYXLOG")
    line = ["sh", "-c", 'exec "$@" 2>&-', "sh", *closed, *words]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(line, env=environment, check=False).returncode == 255
