"""Several places where clients come in, as one."""

import socket
from pathlib import Path

import pytest

from pgbackup.errors import Locked, PgbackupError
from pgbackup.serve.entry.addresses import Address, Directory, HostPort
from pgbackup.serve.entry.listener import user_name
from pgbackup.serve.entry.listeners import Listeners, listen
from pgbackup.serve.entry.session import Client

LOCAL = HostPort("127.0.0.1", 0)
WAIT = 30.0
"""Seconds for somebody who has connected already."""


def connect(place: str) -> socket.socket:
    """Connect to one of the `places`."""
    _, host, _, port = place.split()
    if host.startswith("/"):
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(f"{host}/.s.PGSQL.{port}")
        return stream
    return socket.create_connection((host, int(port)))


def accepted(listeners: Listeners) -> Client:
    found = listeners.accept(WAIT)
    assert found is not None
    stream, client = found
    stream.close()
    return client


def test_clients_come_in_everywhere(tmp_path: Path) -> None:
    listeners = listen([Directory(str(tmp_path / "a")), LOCAL, LOCAL], 5432)
    try:
        assert not listeners.is_exposed
        assert listeners.places[0] == f"-h {tmp_path}/a -p 5432"
        assert listeners.accept(0) is None
        streams = [connect(place) for place in (*listeners.places, *listeners.places)]
        found = sorted(accepted(listeners).address for _ in streams)
        assert found == ["127.0.0.1"] * 4 + ["[local]"] * 2
        assert listeners.accept(0) is None
        for stream in streams:
            stream.close()
    finally:
        listeners.close()
    assert list((tmp_path / "a").iterdir()) == []


def test_who_comes_over_the_loopback_interface_is_no_stranger(tmp_path: Path) -> None:
    listeners = listen([HostPort("0.0.0.0", 0), Directory(str(tmp_path))], 5432)
    try:
        assert listeners.is_exposed
        port = listeners.places[0].split()[-1]
        with connect(f"-h 127.0.0.1 -p {port}") as stream:
            their_port = stream.getsockname()[1]
            assert accepted(listeners) == Client("127.0.0.1", is_exposed=False, port=their_port)
        with connect(listeners.places[1]):
            assert accepted(listeners) == Client("[local]", user_name())
    finally:
        listeners.close()


def test_a_connection_notices_that_its_other_end_has_gone() -> None:
    listeners = listen([LOCAL], 5432)
    try:
        with connect(listeners.places[0]):
            found = listeners.accept(WAIT)
            assert found is not None
            with found[0] as stream:
                assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        listeners.close()


@pytest.mark.parametrize("name", ["*", "localhost"])
def test_a_name_stands_for_all_its_addresses(name: str) -> None:
    listeners = listen([HostPort(name, 0)], 5432)
    try:
        assert listeners.is_exposed == (name == "*")
        port = listeners.places[0].split()[-1]
        with connect(f"-h 127.0.0.1 -p {port}" if name == "*" else listeners.places[0]):
            assert accepted(listeners).address in ("127.0.0.1", "::1")
    finally:
        listeners.close()


def test_what_cannot_be_listened_at_closes_the_rest(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken: list[Address] = [Directory(str(tmp_path)), HostPort(*other.getsockname())]
        with pytest.raises(Locked, match=r'could not listen on "127\.0\.0\.1", port \d+: Address'):
            listen(taken, 5432)
    assert list(tmp_path.iterdir()) == []
    for host in ("192.0.2.1", "no-such-host.invalid"):
        with pytest.raises(PgbackupError, match=f'could not listen on "{host}"'):
            listen([HostPort(host, 0)], 5432)
