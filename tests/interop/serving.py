"""`pgbackup serve` over a repository, and stock clients of it."""

import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from pgbackup.serve.listener import user_name
from tests.account import program_environment
from tests.binaries import nearest_client
from tests.cli.program import Answer, begin
from tests.waiting import wait_for

TIMEOUT = 120


class Serving:
    """Runs until the end of a with block; it then ends well.

    major: of the clients, or the next newer one that there is.
    """

    def __init__(self, directory: Path, repo: Path, major: int, *words: object) -> None:
        """words: more options of serve."""
        self.repo = repo
        self.major = major
        self._directory = directory
        self._words = words
        self._run_directory = tempfile.TemporaryDirectory(prefix="pgb-serve-")  # a short path
        self.socket = Path(self._run_directory.name) / "socket"

    def __enter__(self) -> Self:
        self._running = begin(
            self._directory, "serve", "-B", self.repo, "--listen", self.socket, *self._words
        )
        wait_for(lambda: self.socket.exists() and list(self.socket.iterdir()))
        return self

    def __exit__(self, *_: object) -> None:
        self._running.send(signal.SIGTERM)
        answer: Answer = self._running.wait()
        self._run_directory.cleanup()
        assert answer.status == 0, answer.err

    def line(self, name: str, *words: object) -> list[str]:
        """The words that start a stock client."""
        program = nearest_client(name, self.major)
        return [*map(str, (program, "-h", self.socket, "-U", user_name(), *words))]

    def client(
        self, name: str, *words: object, settings: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a stock client, with settings for its start-up."""
        return subprocess.run(
            self.line(name, *words), env={**program_environment(), "PGOPTIONS": settings},
            capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip

    def begin_client(self, name: str, *words: object) -> subprocess.Popen[str]:
        """Start a stock client; whoever starts it waits for it."""
        return subprocess.Popen(
            self.line(name, *words), env=program_environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def command(self, text: str) -> subprocess.CompletedProcess[str]:
        """A replication command by psql."""
        words = ("-d", "replication=true", "-v", "VERBOSITY=verbose", "-AtX", "-c", text)
        return self.client("psql", *words)
