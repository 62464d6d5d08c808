"""From URLs and paths to drivers."""

from pathlib import Path

import pytest

from pgbackup.errors import UsageError
from pgbackup.storage.local import LocalStorage
from pgbackup.storage.registry import open_storage


@pytest.mark.parametrize(
    ("place", "path"),
    [
        pytest.param("/backups/repo", "/backups/repo", id="path"),
        pytest.param("/backups/a:b", "/backups/a:b", id="path-with-colon"),
        pytest.param("/odd/x://y", "/odd/x:/y", id="path-with-slashes-after-colon"),
        pytest.param("file:///backups/repo", "/backups/repo", id="file"),
        pytest.param("FILE:///backups/repo", "/backups/repo", id="upper-case"),
        pytest.param("file://localhost/backups", "/backups", id="this-host"),
        pytest.param("file:///with%20space", "/with space", id="escaped"),
        pytest.param("file:///%ff\udcff", "/\udcff\udcff", id="not-utf-8"),
    ],
)
def test_a_path_and_a_file_url_open_a_directory(place: str, path: str) -> None:
    storage = open_storage(place)
    assert isinstance(storage, LocalStorage)
    assert storage.url == path
    assert open_storage(storage.url).url == path


def test_a_relative_path_is_taken_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_storage("repo").url == str(tmp_path / "repo")


@pytest.mark.parametrize(
    "place",
    [
        *("", "file://", "file://elsewhere/path", "file:///path?query", "file:///path#part"),
        "file:///a%00b",
    ],
)
def test_a_place_that_makes_no_sense_is_refused(place: str) -> None:
    with pytest.raises(UsageError, match="could not open storage"):
        open_storage(place)


def test_an_unknown_scheme_is_refused_and_known_ones_are_named() -> None:
    with pytest.raises(UsageError, match='no driver for "nosuch://" is installed') as caught:
        open_storage("nosuch://bucket/path")
    assert "file://" in str(caught.value.hint)


def test_an_installed_package_adds_a_scheme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vault_driver.py").write_text(
        "from pgbackup.storage.memory import MemoryStorage\n"
        "def open_vault(url):\n"
        "    storage = MemoryStorage()\n"
        "    storage.url = url\n"
        "    return storage\n"
    )
    package = tmp_path / "vault_driver-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: vault-driver\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[pgbackup.storage]\nvault = vault_driver:open_vault\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert open_storage("vault://here/there").url == "vault://here/there"
    with pytest.raises(UsageError) as caught:
        open_storage("nosuch://x")
    assert "file://, vault://" in str(caught.value.hint)
