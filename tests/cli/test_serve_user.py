"""Users of `serve`, as they are added, listed and removed."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

from pgbackup.errors import ExitCode
from pgbackup.repo import layout
from pgbackup.serve.entry.users import read_known_users
from pgbackup.serve.entry.verifier import make_verifier
from pgbackup.storage.local import LocalStorage
from tests.backup.sample import sample
from tests.cli.program import (
    TIMEOUT,
    Answer,
    command,
    environment,
    run,
    run_with_input,
    succeed,
)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with a backup."""
    path = tmp_path / "repo"
    sample().put(LocalStorage(str(path)))
    return path


def add(repo: Path, password: bytes, *words: object) -> Answer:
    """Add a user whose password comes by standard input."""
    fixed = ("serve-user", "add", "-B", repo, "--password-fd", 0)
    return run_with_input(repo.parent, password, *fixed, *words)


def is_password(repo: Path, name: str, password: str) -> bool:
    verifier = read_known_users(LocalStorage(str(repo))).users[name].verifier
    assert verifier is not None
    return make_verifier(password, salt=verifier.salt) == verifier


def test_a_user_is_added_listed_and_removed(repo: Path) -> None:
    words = ("--right", "wal", "--right", "slots", "--cluster", "7412345678901234567")
    names = ("--certificate-name", "s.example.com", "--system-user", "postgres")
    assert add(repo, b"very secret\nmore\n", "standby", *words, *names).status == ExitCode.OK
    assert is_password(repo, "standby", "very secret")
    succeed(repo, "serve-user", "add", "-B", repo, "guest", "--no-password", "-q")
    users = succeed(repo, "serve-user", "list", "-B", repo, "--json").document["users"]
    assert users == [
        {
            "name": "guest",
            "has_password": False,
            "certificate_names": [],
            "system_users": ["guest"],
            "clusters": None,
            "rights": ["base-backup", "slots", "wal"],
        },
        {
            "name": "standby",
            "has_password": True,
            "certificate_names": ["s.example.com"],
            "system_users": ["postgres"],
            "clusters": ["7412345678901234567"],
            "rights": ["slots", "wal"],
        },
    ]
    table = succeed(repo, "serve-user", "list", "-B", repo).out.decode().splitlines()
    assert [line.split()[0] for line in table] == ["USER", "guest", "standby"]
    assert succeed(repo, "serve-user", "remove", "-B", repo, "guest").err == ""
    gone = run(repo, "serve-user", "remove", "-B", repo, "guest")
    assert gone.status == ExitCode.NOT_FOUND
    assert gone.error()[0] == 'could not remove user "guest": there is none'


def test_no_password_is_stored(repo: Path) -> None:
    add(repo, b"very secret", "standby")
    stored = repo / layout.USERS
    assert b"very secret" not in stored.read_bytes()
    assert stored.stat().st_mode & 0o077 == 0


def test_a_user_is_replaced_only_when_that_is_meant(repo: Path) -> None:
    add(repo, "grün\r\n".encode(), "standby")
    again = add(repo, b"second", "standby")
    assert again.status == ExitCode.LOCKED
    assert "with --replace" in again.error()[1]
    assert is_password(repo, "standby", "grün")
    assert add(repo, b"second", "standby", "--replace").status == ExitCode.OK
    assert is_password(repo, "standby", "second")


@pytest.mark.parametrize(
    ("words", "password", "reason"),
    [
        (["x"], b"", "the password is empty"),
        (["x"], b"\nabc", "the password is empty"),
        (["x"], b"a\0b", "the password is empty, or has a character"),
        (["x"], b"a" * 5000, "the password is longer than 4096 bytes"),
        (["x", "--no-password"], b"a", "exclude each other"),
        (["x", "--password-fd", "77"], b"a", "could not read the password from descriptor 77"),
        (["x" * 64], b"a", "could not use the name"),
        (["a\nb"], b"a", "could not use the name"),
        (["x", "--cluster", "main"], b"a", '"main" is not a system identifier'),
        (["x", "--right", "all"], b"a", "invalid value"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_a_mistake_adds_nobody(repo: Path, words: list[str], password: bytes, reason: str) -> None:
    answer = add(repo, password, *words)
    assert answer.status == ExitCode.USAGE
    assert reason in answer.error()[0]
    assert read_known_users(LocalStorage(str(repo))).users == {}


def test_without_a_terminal_a_descriptor_is_needed(repo: Path) -> None:
    answer = run(repo, "serve-user", "add", "-B", repo, "standby")
    assert answer.status == ExitCode.USAGE
    assert answer.error()[1] == "Give it by a descriptor: --password-fd 0 <FILE"


@pytest.mark.parametrize("again", ["very secret", "otherwise"])
def test_a_terminal_is_asked_twice(repo: Path, again: str) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("serve-user", "add", "-B", repo, "standby"), cwd=repo.parent, env=environment(),
        stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        told = b""
        for prompt, typed in ((b"Password: ", "very secret"), (b"Again: ", again)):
            while prompt not in told:
                told += os.read(ours, 1024)
            os.write(ours, f"{typed}\n".encode())
        status = process.wait(TIMEOUT)
    os.close(ours)
    assert b"very secret" not in told
    if again == "very secret":
        assert status == ExitCode.OK
        assert is_password(repo, "standby", "very secret")
    else:
        assert status == ExitCode.USAGE
