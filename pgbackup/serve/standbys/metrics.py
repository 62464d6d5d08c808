"""The clients of serve for Prometheus, over HTTP: only where it was asked for.

The library is optional and loaded by name: nobody else pays for it, or has to have it.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, Self

from pgbackup.errors import PgbackupError, UsageError
from pgbackup.serve.standbys.clientsfile import ServedClient

PREFIX = "pgbackup_serve_client"
LABELS = ("pid", "application_name", "client_addr", "usename")


class Metrics:
    """A small server that answers each request with what is so now, while the block lasts."""

    def __init__(self, host: str, port: int, clients: Callable[[], Sequence[ServedClient]]) -> None:
        """Raises: UsageError where the library is missing, PgbackupError."""
        try:
            self._library: Any = import_module("prometheus_client")
            self._families: Any = import_module("prometheus_client.core")
        except ImportError as error:
            raise UsageError(
                "could not offer metrics: the package prometheus_client is not installed",
                hint="Install it with: pip install pgbackup[metrics]",
            ) from error
        self._clients = clients
        registry = self._library.CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = self._library.start_http_server(port, host, registry)
        except OSError as error:
            raise PgbackupError(
                f'could not offer metrics at "{host}:{port}": {error.strerror or error}'
            ) from error
        self.port = int(self._server.server_port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def collect(self) -> Iterator[Any]:
        """The figures, as the library wants them."""
        gauge = self._families.GaugeMetricFamily
        positions = gauge(f"{PREFIX}_lsn_bytes", "WAL position.", labels=(*LABELS, "position"))
        lags = gauge(f"{PREFIX}_lag_seconds", "Lag.", labels=(*LABELS, "position"))
        states = gauge(
            f"{PREFIX}_sync_priority",
            "Priority as a synchronous standby.",
            labels=(*LABELS, "state", "sync_state"),
        )
        for client in self._clients():
            now = client.status
            words = [str(now.pid), now.application_name, now.client_addr or "", now.usename]
            states.add_metric(
                [*words, now.state.value, client.sync_state.value], client.sync_priority
            )
            for name in ("sent", "write", "flush", "replay"):
                positions.add_metric([*words, name], getattr(now, f"{name}_lsn"))
                lag = getattr(now, f"{name}_lag", None)
                if lag is not None:
                    lags.add_metric([*words, name], lag / 1_000_000)
        yield from (positions, lags, states)
