"""What is said about the program by the program."""

import re
from pathlib import Path

import pytest

import pgbackup
from pgbackup.cli.app import VERBS
from pgbackup.errors import ExitCode
from pgbackup.pg.page import KERNEL
from tests.cli.program import run, succeed

HOOKS = ("wal-push", "wal-get")
"""These answer to PostgreSQL, which knows other statuses: tests/archiving/test_command.py."""


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--help", "-?"])
@pytest.mark.parametrize("verb", ["", *(verb for verb in VERBS if verb not in HOOKS)])
def test_every_help_ends_with_all_exit_statuses(tmp_path: Path, verb: str, option: str) -> None:
    answer = succeed(tmp_path, *([verb] if verb else []), option)
    assert answer.err == ""
    _, _, ending = answer.out.decode().partition("Exit status:\n")
    statuses = [int(number) for number in re.findall(r"(?:^ +| {2,})(\d+) [a-zA-Z]", ending, re.M)]
    assert sorted(statuses) == sorted(int(code) for code in ExitCode)
    assert all(line.startswith("  ") for line in ending.splitlines())
    assert not re.search(r"^  -.*<(str|int|float|path)", answer.out.decode(), re.M), "no metavar"


def test_the_help_names_every_verb(tmp_path: Path) -> None:
    text = succeed(tmp_path, "--help").out.decode()
    for verb in VERBS:
        assert re.search(f"^  {verb} +[A-Z]", text, re.M)


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_printed(tmp_path: Path, option: str) -> None:
    expected = f"pgbackup {pgbackup.__version__} (page checks: {KERNEL})\n"
    assert succeed(tmp_path, option).out.decode() == expected


def test_a_mistake_points_to_the_help_of_its_verb(tmp_path: Path) -> None:
    assert run(tmp_path, "list", "--bogus").error()[1] == "Type: pgbackup list --help"
    assert run(tmp_path, "bogus").error()[1] == "Type: pgbackup --help"
    assert run(tmp_path, "wal", "list", "--bogus").error()[1] == "Type: pgbackup wal list --help"
    assert run(tmp_path, "wal", "bogus").error()[1] == "Type: pgbackup wal --help"
