"""A clone must not archive into its source's archive unnoticed."""

from pathlib import Path

import pytest

from pgbackup.restore.archivesetting import archiving_warning

REPO = "/srv/repo"
ON = "archive_mode = on\n"
PUSH = "archive_command = 'pgbackup wal-push -B /srv/repo %p'\n"


@pytest.mark.parametrize(
    ("conf", "auto", "expected"),
    [
        (ON + PUSH, "", "into this repository"),
        ("archive_mode on # yes\nARCHIVE_COMMAND='cp %p /srv/repo/%f'", "", "this repository"),
        (ON, PUSH, "into this repository"),
        (ON + "archive_command = 'cp %p ''/a b''/%f'\n", "", "with: cp %p '/a b'/%f"),
        ("archive_mode = 'always'\n" + PUSH, "", "into this repository"),
        (ON + PUSH, "archive_mode = 'off'\n", None),
        (ON + PUSH, "archive_command = ''\n", None),
        ("#" + ON + PUSH, "", None),
        (PUSH, "", None),
        ("", "", None),
    ],
)
def test_a_server_that_would_archive_is_told_of(
    tmp_path: Path, conf: str, auto: str, expected: str | None
) -> None:
    (tmp_path / "postgresql.conf").write_text(conf)
    (tmp_path / "postgresql.auto.conf").write_text(auto)
    warning = archiving_warning(str(tmp_path), REPO, same_timeline=False)
    assert warning is None if expected is None else expected in (warning or "")


def test_a_configuration_that_is_elsewhere_is_not_judged(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(ON + PUSH)
    (tmp_path / "postgresql.conf").symlink_to(tmp_path / "real")
    assert archiving_warning(str(tmp_path), REPO, same_timeline=True) is None


def test_the_same_timeline_is_named(tmp_path: Path) -> None:
    (tmp_path / "postgresql.conf").write_text(ON + PUSH)
    assert "on the same timeline" in (
        archiving_warning(str(tmp_path), REPO, same_timeline=True) or ""
    )
