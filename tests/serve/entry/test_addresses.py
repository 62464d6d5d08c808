"""What may be written where a server shall listen."""

import os
from pathlib import Path

import pytest

from pgbackup.errors import Refused, UsageError
from pgbackup.serve.entry.addresses import (
    Directory,
    HostPort,
    check_ours,
    default_addresses,
    is_loopback,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("backup1", HostPort("backup1", 5433)),
        ("backup1:5432", HostPort("backup1", 5432)),
        ("127.0.0.1:0", HostPort("127.0.0.1", 0)),
        ("*", HostPort("*", 5433)),
        ("*:1", HostPort("*", 1)),
        ("::1", HostPort("::1", 5433)),
        ("[::1]", HostPort("::1", 5433)),
        ("[fe80::1%eth0]:65535", HostPort("fe80::1%eth0", 65535)),
        ("/run/x", Directory("/run/x")),
        ("/run/a:5432", Directory("/run/a:5432")),
    ],
    ids=str,
)
def test_a_place_is_a_host_or_a_directory(text: str, expected: object) -> None:
    assert parse_address(text, 5433) == expected


def test_a_directory_may_be_relative() -> None:
    assert parse_address("./x", 1) == Directory(str(Path.cwd() / "x"))


@pytest.mark.parametrize("text", ["", ":5432", "a:b", "a:65536", "[::1", "::1]:5", "a:1:"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no place to listen at"):
        parse_address(text, 5432)


def test_this_machine_alone_reaches_its_loopback_interface() -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "192.0.2.1", "fe80::1%eth0", "localhost", ""):
        assert not is_loopback(host)


def test_by_default_a_directory_of_the_user_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    directory, host = default_addresses(7)
    assert isinstance(directory, Directory)
    assert directory.path.endswith(f"/pgbackup-{os.geteuid()}")
    assert directory.is_ours
    assert host == HostPort("127.0.0.1", 7)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert default_addresses(7)[0] == Directory("/run/user/7/pgbackup", is_ours=True)
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/backup:/run/more")
    assert default_addresses(7)[0] == Directory("/run/backup", is_ours=True)


def test_a_directory_where_others_write_is_not_ours(tmp_path: Path) -> None:
    check_ours(str(tmp_path))
    for mode in (0o777, 0o720):
        tmp_path.chmod(mode)
        with pytest.raises(Refused, match="others can write there"):
            check_ours(str(tmp_path))
    link = tmp_path / "link"
    link.symlink_to(".")
    with pytest.raises(Refused, match="it is no directory"):
        check_ours(str(link))
