"""What a client asks for at its start-up is understood, or refused as a server does."""

from datetime import UTC, datetime

import pytest

from pgbackup.errors import ClientError
from pgbackup.pg.lsn import Lsn
from pgbackup.restore.recoverytarget import RecoveryTarget, TargetKind
from pgbackup.serve.asked import Asked, parse_settings
from pgbackup.wire.startup import parse_command_line

AFTERNOON = RecoveryTarget(TargetKind.TIME, time=datetime(2026, 11, 22, 16, 42, tzinfo=UTC))


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ("", Asked()),
        ("-c DateStyle=ISO --geqo=off", Asked()),
        ("-c pgbackup.label= --pgbackup.target_lsn=", Asked()),
        ("-c pgbackup.label=20261122T164200F", Asked("20261122T164200F")),
        ("-c PGBackup.Label=oldest", Asked("oldest")),
        ("--pgbackup.target-time=2026-11-22T16:42:00Z", Asked(None, AFTERNOON)),
        ("-c pgbackup.target_time=2026-11-22\\ 18:42+02", Asked(None, AFTERNOON)),
        ("-c pgbackup.target_time=2026-11-22T16:42", Asked(None, AFTERNOON)),
        (
            "-c pgbackup.target_lsn=1/A0",
            Asked(None, RecoveryTarget(TargetKind.LSN, lsn=Lsn(0x1000000A0))),
        ),
    ],
)
def test_settings_of_ours_are_understood(options: str, asked: Asked) -> None:
    assert parse_settings(parse_command_line(options)) == asked


@pytest.mark.parametrize(
    ("name", "value", "sqlstate", "words", "detail"),
    [
        ("pgbackup.tarjet", "x", "42602", "invalid configuration parameter name", "reserved"),
        ("pgbackup.", "x", "42602", "invalid configuration parameter name", "reserved prefix."),
        ("pgbackup.target_lsn", "1", "22023", 'parameter "pgbackup.target_lsn": "1"', "."),
        ("pgbackup.target_lsn", "-1/0", "22023", "invalid value for parameter", "."),
        ("pgbackup.target_lsn", "1/100000000", "22023", "invalid value for parameter", "."),
        ("pgbackup.target_time", "yesterday", "22023", "invalid value", "It is not of the form"),
        ("pgbackup.target_time", "2026-02-30", "22023", "invalid value", "ay is out of range"),
        ("pgbackup.target_time", "2026-11-22 16:42 Mars/City", "22023", "invalid value", "no time"),
    ],
)
def test_what_makes_no_sense_is_refused(
    name: str, value: str, sqlstate: str, words: str, detail: str
) -> None:
    with pytest.raises(ClientError) as caught:
        parse_settings({name: value})
    assert caught.value.sqlstate == sqlstate
    assert words in caught.value.message
    assert detail in (caught.value.detail or "")
    assert "pgbackup.target_" in (caught.value.hint or "")


def test_there_is_one_target() -> None:
    both = {"pgbackup.target_time": "2026-11-22", "pgbackup.target_lsn": "0/0"}
    with pytest.raises(ClientError, match="multiple recovery targets specified") as caught:
        parse_settings(both)
    assert caught.value.sqlstate == "22023"
