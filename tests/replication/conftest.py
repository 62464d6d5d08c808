"""Connections to real servers."""

from collections.abc import Iterator

import pytest

from pgbackup.replication.libpq import LibpqTransport
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory


@pytest.fixture(scope="module")
def server(module_cluster_factory: ClusterFactory, major: int) -> Cluster:
    """A running server of each major, for tests that change nothing others look at."""
    return module_cluster_factory(major)


@pytest.fixture
def transport(server: Cluster) -> Iterator[LibpqTransport]:
    """An open replication connection to `server`."""
    transport = LibpqTransport()
    transport.connect(server.conninfo(), "pgbackup test")
    yield transport
    transport.disconnect()
