"""What real servers say of wrong packets is what our table of them says."""

import socket

from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.waiting import PATIENCE
from tests.wire.startup_packets import WRONG


def answer(server: Cluster, body: bytes) -> bytes:
    """All that the server sends before it closes the connection."""
    got = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(f"{server.run_directory}/.s.PGSQL.{server.port}")
        connection.sendall((len(body) + 4).to_bytes(4) + body)
        while data := connection.recv(65536):
            got += data
    return got


def test_servers_say_what_we_say(module_cluster_factory: ClusterFactory, major: int) -> None:
    server = module_cluster_factory(major)
    for body, sqlstate, text in WRONG:
        said = answer(server, body)
        assert f"VFATAL\0C{sqlstate}\0M{text}".encode() in said, body
