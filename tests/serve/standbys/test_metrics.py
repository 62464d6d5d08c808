"""What Prometheus is told of the clients."""

import urllib.request

import pytest

from pgbackup.errors import PgbackupError
from pgbackup.serve.standbys.clients import Clients
from pgbackup.serve.standbys.clientsfile import served_clients
from pgbackup.serve.standbys.metrics import Metrics
from pgbackup.serve.standbys.standbynames import parse_standby_names
from tests.serve.standbys.test_clients import stream

HOST = "127.0.0.1"


def test_prometheus_gets_positions_lags_and_states() -> None:
    clients = Clients()
    stream(clients, "s1", 900)
    names = parse_standby_names("ANY 1 (s1)")
    with Metrics(HOST, 0, lambda: served_clients(names, clients.statuses())) as metrics:
        url = f"http://{HOST}:{metrics.port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode()
        with pytest.raises(PgbackupError, match="could not offer metrics at"):
            Metrics(HOST, metrics.port, list)
    words = 'application_name="s1",client_addr="",pid="1",'
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    name = "pgbackup_serve_client"
    assert lines[f'{name}_lsn_bytes{{{words}position="flush",usename="backup"}}'] == "900.0"
    state = 'state="streaming",sync_state="quorum",usename="backup"'
    assert lines[f"{name}_sync_priority{{{words}{state}}}"] == "1.0"
    assert any(key.startswith(f"{name}_lag_seconds") for key in lines)
