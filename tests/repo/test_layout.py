"""Names of objects."""

from datetime import UTC, datetime

import pytest

from pgbackup.errors import UsageError
from pgbackup.repo import layout


@pytest.mark.parametrize("label", ["20261122T164200F", "20000229T000000I"])
def test_a_label_is_accepted(label: str) -> None:
    assert layout.is_label(label)
    assert layout.backup_folder(7, label) == f"7/backups/{label}/"


@pytest.mark.parametrize(
    "label",
    [
        "",
        "latest",
        "20261122T164200",
        "20261122T164200f",
        "20261122T164200D",
        "20261122T164200F/",
        "20261122T164200F\n",
        "../20261122T164200F",
        "20261322T164200F",
        "20260230T000000F",
        "20261122T246000F",
        "\u0662\u0660\u0662\u06661122T164200F",
        "99991231T235959F",
    ],
)
def test_what_is_no_label_is_refused(label: str) -> None:
    assert not layout.is_label(label)
    with pytest.raises(UsageError, match="could not use backup label"):
        layout.backup_folder(7, label)


def test_a_label_tells_kind_and_time() -> None:
    time = datetime(2026, 11, 22, 16, 42, 0, tzinfo=UTC)
    assert layout.format_label("full", time) == "20261122T164200F"
    assert layout.format_label("I", time) == "20261122T164200I"
    assert layout.label_time("20261122T164200F") == time.replace(tzinfo=None)


@pytest.mark.parametrize(
    ("folder", "system"),
    [
        ("7", 7),
        ("18446744073709551615", (1 << 64) - 1),
        ("18446744073709551616", None),
        ("07", None),
        ("0", None),
        ("-7", None),
        ("wal", None),
        ("7x", None),
        ("", None),
    ],
)
def test_a_system_folder_is_told_by_its_name(folder: str, system: int | None) -> None:
    assert layout.parse_system(folder) == system


def test_archives_and_indexes_are_named_after_tablespaces() -> None:
    assert layout.archive_name(None, compressed=True) == "base.tar.zst"
    assert layout.archive_name(16385, compressed=False) == "16385.tar"
    assert layout.index_name("base.tar.zst") == layout.index_name("base.tar") == "base.index"
    assert layout.is_archive_name("16385.tar.zst")
    assert not layout.is_archive_name("base.index")


def test_wal_lies_as_in_pg_wal() -> None:
    name = "000000010000000000000001"
    assert layout.segment_object(7, name, compressed=False) == f"7/wal/{name}"
    assert layout.segment_object(7, name, compressed=True) == f"7/wal/{name}.zst"
    assert layout.conflict_object(7, name) == f"7/conflict/{name}"
