"""`pgbackup serve` over a repository, and stock clients of it."""

import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from pgbackup.serve.entry.listener import user_name
from tests.account import program_environment
from tests.binaries import nearest_client
from tests.cli.program import Running, begin
from tests.waiting import PATIENCE, wait_for

PORT = 5432


class Serving:
    """Runs until the end of a with block; it then ends well. May be stopped or killed meanwhile.

    major:  of the clients, or the next newer one that there is.
    socket: its directory.
    """

    def __init__(self, directory: Path, repo: Path | str, major: int, *words: object) -> None:
        """words: more options of serve."""
        self.repo = repo
        self.major = major
        self._directory = directory
        self._words = words
        self._run_directory = tempfile.TemporaryDirectory(prefix="pgb-serve-")  # a short path
        self.socket = Path(self._run_directory.name) / "socket"
        self._running: Running | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._run_directory.cleanup()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        words = ("-B", self.repo, "--listen", self.socket, *self._words)
        self._running = begin(self._directory, "serve", *words)
        wait_for(self._is_ready)

    def stop(self, *, cuts_off: bool = False) -> None:
        """End it in good order. cuts_off: a client takes longer than it may."""
        running, self._running = self._running, None
        if running is not None:
            running.send(signal.SIGTERM)
            answer = running.wait()
            assert answer.status == 0, answer.err
            assert ("cut off" in answer.err) == cuts_off, answer.err
            assert list(self.socket.iterdir()) == []

    def kill(self) -> None:
        """End it as a crash does."""
        running, self._running = self._running, None
        assert running is not None
        running.process.kill()
        running.process.wait()

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.process.pid

    def conninfo(self) -> str:
        return f"host={self.socket} port={PORT} user={user_name()}"

    def line(self, name: str, *words: object, major: int | None = None) -> list[str]:
        """The words that start a stock client."""
        program = nearest_client(name, major or self.major)
        return [*map(str, (program, "-h", self.socket, "-U", user_name(), *words))]

    def client(
        self, name: str, *words: object, settings: str = "", major: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a stock client, with settings for its start-up."""
        return subprocess.run(
            self.line(name, *words, major=major),
            env={**program_environment(), "PGOPTIONS": settings},
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    def succeed(self, name: str, *words: object, major: int | None = None) -> None:
        """Run a stock client that is content."""
        done = self.client(name, *words, major=major)
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr, done.stderr

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

    def _is_ready(self) -> bool:
        assert self._running is not None
        assert self._running.process.poll() is None, self._running.wait().err
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(f"{self.socket}/.s.PGSQL.{PORT}")
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True
