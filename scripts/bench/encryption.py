"""One certificate for both walsenders that are compared, at ports of 127.0.0.1.

Clients have one, too: ours lets users in by it, so that no password is in the way of a bench.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.cluster import Cluster
from tests.postmaster import free_port
from tests.serve.entry.certificates import Authority

USER = "bench"
_OURS = ("server.pem", "server.key")
_THEIRS = ("client.pem", "client.key")


class Encryption:
    """Certificates in a directory, for one run."""

    def __init__(self, directory: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        self._authority = Authority(directory)
        self._authority.issue("server", "localhost")
        self._authority.issue("client", USER)
        certificate, key = (directory / name for name in _THEIRS)
        self._settings = {"sslmode": "require", "sslcert": str(certificate), "sslkey": str(key)}

    def begin(self, cluster: Cluster) -> str:
        """Have a server offer TLS; what clients connect to."""
        cluster.stop()
        for name in _OURS:
            shutil.copy(self._authority.directory / name, cluster.pgdata)
            (cluster.pgdata / name).chmod(0o600)
            cluster.account.give(cluster.pgdata / name)
        certificate, key = _OURS
        cluster.settings |= {"ssl": True, "ssl_cert_file": certificate, "ssl_key_file": key}
        cluster.tcp, cluster.port = True, free_port()
        cluster.start()
        return cluster.conninfo(**self._settings, hostaddr="127.0.0.1")

    def serve(self, repository: Path) -> tuple[list[str], str]:
        """Let the client in; options for `serve`, and what clients connect to."""
        command = [sys.executable, "-m", "pgbackup", "serve-user", "add", USER, "--no-password"]
        command += ["--certificate-name", USER, "--replace", "-q", "-B", str(repository)]
        subprocess.run(command, check=True)
        port = free_port()
        certificate, key = (str(self._authority.directory / name) for name in _OURS)
        words = ["--listen", f"127.0.0.1:{port}", "--tls-cert", certificate, "--tls-key", key]
        words += ["--tls-ca", str(self._authority.certificate)]
        settings = {"host": "127.0.0.1", "port": port, "user": USER, **self._settings}
        return words, " ".join(f"{name}={value}" for name, value in settings.items())
