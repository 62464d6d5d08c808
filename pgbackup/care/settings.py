"""Judges what a server is set to. Pure: values in, findings out."""

import os
import shlex
from collections.abc import Sequence

from pgbackup.care.finding import Findings, critical, fine, warning
from pgbackup.care.serverview import ServerView

MIN_SENDERS = 3
"""Two for a backup, one for a receiver."""

NEWEST_MAJOR = 18

_RESTART = "; then restart the server"
_RELOAD = "; SELECT pg_reload_conf()"

_WASTE = {"true", "/bin/true", "/usr/bin/true", ":", "exit 0"}
"""Commands that succeed and keep nothing."""


def judge_settings(server: ServerView) -> Findings:
    """What concerns backups and WAL, except how WAL is archived."""
    yield from _judge_version(server)
    if server.setting("wal_level") == "minimal":
        yield critical(
            "wal_level",
            "wal_level is minimal: WAL is not enough for backups",
            _alter("wal_level = replica", _RESTART),
        )
    else:
        yield fine("wal_level", f"wal_level is {server.setting('wal_level')}")
    yield from _judge_limits(server)
    for name, harm in (
        ("fsync", "a crash of the server's host destroys the cluster"),
        ("full_page_writes", "torn pages stay torn, and no backup can be taken from a standby"),
    ):
        if server.setting(name) == "off":
            judge = critical if name == "fsync" else warning
            yield judge(name, f"{name} is off: {harm}", _alter(f"{name} = on", _RELOAD))
        else:
            yield fine(name, f"{name} is on")
    if server.setting("data_checksums") == "off":
        yield warning(
            "data_checksums",
            "data_checksums is off: nobody notices pages that the disk has damaged",
            "stop the server, type: pg_checksums --enable -D DATADIR, and start it",
        )
    else:
        yield fine("data_checksums", "data_checksums is on")


def judge_recovery_settings(server: ServerView, *, is_in_recovery: bool) -> Findings:
    """What a restore may have left in the settings."""
    if server.setting("restore_command") and not is_in_recovery:
        yield warning(
            "restore_command",
            "restore_command is still set on a primary",
            f"ALTER SYSTEM RESET restore_command{_RELOAD}, or remove it from postgresql.conf",
        )
    else:
        yield fine("restore_command", "no restore_command is left over")


def judge_archiving(server: ServerView, repository: str | None, *, is_received: bool) -> Findings:
    """How WAL gets into the repository.

    repository:  its directory, or None if it has none.
    is_received: a receiver does it.
    """
    mode, command = server.setting("archive_mode"), server.setting("archive_command")
    command = "" if command == "(disabled)" else command
    library = server.setting("archive_library")
    if mode == "off":
        yield from _judge_no_archiver(server, is_received=is_received)
    elif library and command:
        yield critical(
            "archive_library",
            "archive_library and archive_command are both set: the server archives nothing",
            f"ALTER SYSTEM RESET archive_library{_RELOAD}",
        )
    elif library:
        yield fine("archive_library", f"archive_library is {library}")
    elif not command.strip():
        yield critical(
            "archive_command",
            "archive_mode is on without archive_command: pg_wal grows until the disk is full",
            _push(repository),
        )
    else:
        yield from _judge_command(command, repository)


def _judge_no_archiver(server: ServerView, *, is_received: bool) -> Findings:
    if is_received:
        yield fine("archive_mode", "archive_mode is off; a receiver gets the WAL")
        return
    yield critical(
        "archive_mode",
        "archive_mode is off and no receiver is running: what happens after a backup is lost",
        "start: pgbackup receive-wal -S pgbackup -C --if-not-exists, or"
        f" {_alter('archive_mode = on', _RESTART)}",
    )


def _judge_command(command: str, repository: str | None) -> Findings:
    """archive_command as it stands."""
    name = "archive_command"
    if command.strip() in _WASTE:
        yield critical(name, f'archive_command "{command}" throws WAL away', _push(repository))
        return
    if "%p" not in command:
        yield critical(name, "archive_command does not name the file, %p", _push(repository))
        return
    if "wal-push" not in command:
        yield fine(name, "archive_command is not pgbackup's")
        return
    named = _named_repository(command)
    if named is None:
        yield critical(
            name, "archive_command runs wal-push without a repository", _push(repository)
        )
    elif repository is not None and os.path.realpath(named) != os.path.realpath(repository):
        yield warning(
            name, f'archive_command puts WAL into another repository, "{named}"', _push(repository)
        )
    else:
        yield fine(name, "archive_command puts WAL into this repository")


def _named_repository(command: str) -> str | None:
    try:
        words: Sequence[str] = shlex.split(command)
    except ValueError:
        return None
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word in ("-B", "--repo"):
            return following
        if word.startswith("--repo="):
            return word.removeprefix("--repo=")
        if word.startswith(("-B", "PGBACKUP_REPO=")):
            return word.removeprefix("-B").removeprefix("PGBACKUP_REPO=")
    return None


def _judge_version(server: ServerView) -> Findings:
    text = f"the server is PostgreSQL {server.version_text}"
    if server.major > NEWEST_MAJOR:
        yield warning(
            "version", f"{text}, newer than what this pgbackup knows", "install a newer pgbackup"
        )
    else:
        yield fine("version", text)


def _judge_limits(server: ServerView) -> Findings:
    senders = int(server.setting("max_wal_senders") or "0")
    if senders < MIN_SENDERS:
        yield warning(
            "max_wal_senders",
            f"max_wal_senders is {senders}; a backup takes two and a receiver one",
            _alter("max_wal_senders = 10", _RESTART),
        )
    else:
        yield fine("max_wal_senders", f"max_wal_senders is {senders}")
    slots = int(server.setting("max_replication_slots") or "0")
    if slots < 1:
        yield critical(
            "max_replication_slots",
            "max_replication_slots is 0: no backup can hold its WAL",
            _alter("max_replication_slots = 10", _RESTART),
        )
    else:
        yield fine("max_replication_slots", f"max_replication_slots is {slots}")


def _push(repository: str | None) -> str:
    command = f"pgbackup wal-push -B {repository or 'REPO'} %p"
    return _alter(f"archive_command = '{command}'", _RELOAD)


def _alter(setting: str, then: str) -> str:
    return f"ALTER SYSTEM SET {setting}{then}"
