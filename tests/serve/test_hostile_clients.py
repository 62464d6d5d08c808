"""`pgbackup serve` among clients that mean no good: it goes on, no larger, and serves the others.

The number of connections is PGBACKUP_HOSTILE_CLIENTS; PGBACKUP_HOSTILE_SECONDS is what a legal
client may have to wait. Figures are printed: pytest -s.
"""

import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import psycopg
import pytest

from pgbackup.serve.entry.listener import user_name
from pgbackup.storage.local import LocalStorage
from tests.backup.sample import sample
from tests.cli.program import Running, begin, run_with_input
from tests.repo.samples import SYSTEM
from tests.serve.entry.certificates import Authority
from tests.serve.hostile import Hostile
from tests.waiting import wait_for
from tests.wire.mutations import SEED

COUNT = int(os.environ.get("PGBACKUP_HOSTILE_CLIENTS", "2000"))
PATIENCE = float(os.environ.get("PGBACKUP_HOSTILE_SECONDS", "30"))
PASSWORD = "very secret"
GROWTH = 16 << 10
"""kB by which the allocator's pages may vary, when the most that goes on at a time has gone on."""


class Served:
    """A repository, served on a Unix socket and, with TLS, at 127.0.0.1."""

    def __init__(self, directory: Path, socket_directory: Path) -> None:
        repo = directory / "repo"
        sample().put(LocalStorage(str(repo)))
        added = run_with_input(
            directory, PASSWORD.encode(),
            "serve-user", "add", "-B", repo, "standby", "--password-fd", 0,
        )  # fmt: skip
        assert added.status == 0, added.err
        self.authority = Authority(directory / "authority")
        certificate, key = self.authority.issue("server", "localhost", "DNS:localhost")
        places = ("--listen", socket_directory, "--listen", "127.0.0.1:0")
        files = ("--tls-cert", certificate, "--tls-key", key)
        self.running: Running = begin(directory, "serve", "-B", repo, *places, *files)
        wait_for(lambda: self.running.told.count("serving PostgreSQL") == 2)
        found = re.search(r"-h 127\.0\.0\.1 -p (\d+)$", self.running.told, re.M)
        assert found is not None
        self.port = int(found[1])
        self.unix = socket_directory / ".s.PGSQL.5432"

    def wait_of_a_client(self) -> float:
        """Come in as a legal client, in each way; how long the longer one took, in seconds."""
        over_tls = (
            f"host=localhost hostaddr=127.0.0.1 port={self.port} user=standby password='{PASSWORD}'"
            f" sslmode=verify-full sslrootcert={self.authority.certificate}"
        )
        here = f"host={self.unix.parent} port=5432 user={user_name()}"
        longest = 0.0
        for conninfo in (over_tls, here):
            begun = time.monotonic()
            wishes = {"replication": "true", "connect_timeout": "60", "autocommit": True}
            with psycopg.connect(conninfo, **wishes) as connection:  # type: ignore[arg-type]
                row = connection.execute("IDENTIFY_SYSTEM").fetchone()
            assert row is not None
            assert row[0] == str(SYSTEM)
            longest = max(longest, time.monotonic() - begun)
        return longest

    @property
    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.running.process.pid}/fd").iterdir())

    @property
    def resident(self) -> int:
        """kB of memory."""
        status = Path(f"/proc/{self.running.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1])


@contextmanager
def coming(hostile: Hostile, numbers: range) -> Iterator[threading.Thread]:
    """A thread in which the connections of these numbers are made."""

    def come() -> None:
        for number in numbers:
            hostile.come(number)

    thread = threading.Thread(target=come)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()
        hostile.leave()


@pytest.mark.slow
def test_hostile_clients_cost_others_nothing(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pgb-serve-") as directory:
        served = Served(tmp_path, Path(directory))
        try:
            judge(served)
        finally:
            served.running.send(signal.SIGTERM)
            answer = served.running.wait()
    assert answer.status == 0, answer.err[-2000:]
    assert "Exception" not in answer.err


def judge(served: Served) -> None:
    hostile = Hostile(served.unix, served.port, Random(SEED))
    served.wait_of_a_client()
    idle = served.descriptors
    waits, sizes = [], []
    for part in range(4):
        with coming(hostile, range(part * COUNT // 4, (part + 1) * COUNT // 4)) as thread:
            while thread.is_alive():
                waits.append(served.wait_of_a_client())
        wait_for(lambda: served.descriptors <= idle)
        sizes.append(served.resident)
    print(
        f"{COUNT} connections: {len(waits)} legal clients waited {max(waits):.3f} s at most;"
        f" kB after each quarter {sizes}; descriptors {idle}"
    )
    assert len(waits) >= 4
    assert max(waits) < PATIENCE
    assert sizes[3] - sizes[1] < GROWTH
