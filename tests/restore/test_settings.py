"""For each kind of recovery and each version: exactly these files and settings."""

from datetime import UTC, datetime

import pytest

from pgbackup.errors import UsageError
from pgbackup.pg.lsn import Lsn
from pgbackup.restore.recoverytarget import RecoveryTarget, TargetAction, TargetKind
from pgbackup.restore.settings import (
    Primary,
    Recovery,
    configuration_lines,
    primary_conninfo,
)

MAJORS = (13, 14, 15, 16, 17, 18)
COMMAND = "pgbackup wal-get -B /repo %f %p"
TIME = datetime(2026, 11, 22, 16, 42, 0, 500000, tzinfo=UTC)

LATEST = RecoveryTarget(TargetKind.END_OF_WAL)
PRIMARY = Primary({"host": "db1", "user": "o'hara", "dbname": "app"}, "node_2")

NO_TARGETS = {
    "recovery_target": "",
    "recovery_target_name": "",
    "recovery_target_time": "",
    "recovery_target_xid": "",
    "recovery_target_lsn": "",
}
DEFAULTS = {
    "restore_command": COMMAND,
    **NO_TARGETS,
    "recovery_target_inclusive": "on",
    "recovery_target_timeline": "latest",
    "recovery_target_action": "pause",
}

TABLE = {
    "end of backup": (Recovery(), None, {}),
    "as the source": (Recovery(keep_standby_signal=True), None, {}),
    "end of WAL": (Recovery(LATEST, restore_command=COMMAND), "recovery.signal", DEFAULTS),
    "immediate": (
        Recovery(RecoveryTarget(TargetKind.IMMEDIATE), restore_command=COMMAND),
        "recovery.signal",
        DEFAULTS | {"recovery_target": "immediate"},
    ),
    "time": (
        Recovery(RecoveryTarget(TargetKind.TIME, time=TIME), "2", restore_command=COMMAND),
        "recovery.signal",
        DEFAULTS
        | {
            "recovery_target_time": "2026-11-22 16:42:00.5+00",
            "recovery_target_timeline": "2",
        },
    ),
    "position, exclusive": (
        Recovery(
            RecoveryTarget(TargetKind.LSN, lsn=Lsn(0x3000028), is_inclusive=False),
            "1",
            TargetAction.PROMOTE,
            COMMAND,
        ),
        "recovery.signal",
        DEFAULTS
        | {
            "recovery_target_lsn": "0/3000028",
            "recovery_target_inclusive": "off",
            "recovery_target_timeline": "1",
            "recovery_target_action": "promote",
        },
    ),
    "transaction": (
        Recovery(
            RecoveryTarget(TargetKind.XID, xid=(1 << 32) + 740),
            action=TargetAction.SHUTDOWN,
            restore_command=COMMAND,
        ),
        "recovery.signal",
        DEFAULTS | {"recovery_target_xid": "4294968036", "recovery_target_action": "shutdown"},
    ),
    "restore point": (
        Recovery(RecoveryTarget(TargetKind.NAME, name="it's"), restore_command=COMMAND),
        "recovery.signal",
        DEFAULTS | {"recovery_target_name": "it's"},
    ),
    "standby of the archive": (
        Recovery(is_standby=True, restore_command=COMMAND),
        "standby.signal",
        DEFAULTS,
    ),
    "standby": (
        Recovery(is_standby=True, restore_command=COMMAND, primary=PRIMARY),
        "standby.signal",
        DEFAULTS
        | {"primary_conninfo": "host='db1' user='o\\'hara'", "primary_slot_name": "node_2"},
    ),
}


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("kind", TABLE)
def test_each_kind_of_recovery_has_its_files_and_settings(kind: str, major: int) -> None:
    recovery, signal, expected = TABLE[kind]
    if kind == "standby" and major >= 17:
        expected = expected | {"primary_conninfo": "host='db1' user='o\\'hara' dbname='app'"}
    recovery.check()
    assert recovery.signal == signal
    assert recovery.settings(major) == expected


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("kind", TABLE)
def test_at_most_one_target_is_set_and_no_other_follows_it(kind: str, major: int) -> None:
    settings = TABLE[kind][0].settings(major)
    targets = [value for name, value in settings.items() if name in NO_TARGETS]
    assert not any(targets[:-1])


@pytest.mark.parametrize(
    ("recovery", "reason"),
    [
        (Recovery(LATEST, is_standby=True), "a standby goes on"),
        (Recovery(LATEST, keep_standby_signal=True), "--keep-standby-signal"),
        (Recovery(is_standby=True, keep_standby_signal=True), "--keep-standby-signal"),
        (Recovery(primary=PRIMARY), "they are for a standby"),
        (Recovery(LATEST, restore_command="a\nb"), "more than one line"),
        (Recovery(LATEST, restore_command=" "), "it is empty"),
    ],
)
def test_wishes_that_exclude_each_other_are_refused(recovery: Recovery, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        recovery.check()


def test_what_belongs_to_a_connection_of_ours_is_not_the_standbys() -> None:
    settings = {"host": "a b\\c", "replication": "true", "fallback_application_name": "pgbackup"}
    assert primary_conninfo(settings, 18) == "host='a b\\\\c'"


def test_a_value_is_quoted_for_the_configuration_file() -> None:
    lines = configuration_lines({"recovery_target_name": "it's\\a\nb"}).splitlines()
    assert lines[-1] == "recovery_target_name = 'it''s\\\\a\\nb'"
