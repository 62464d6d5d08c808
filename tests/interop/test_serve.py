"""Stock clients get base backups and WAL out of a repository that is served."""

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from pgbackup.pg.lsn import Lsn, Segment
from pgbackup.serve.listener import user_name
from tests.account import program_environment
from tests.binaries import client_bin
from tests.cli.program import begin, succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.interop.servers import check_balances, check_structure, make_loaded
from tests.waiting import wait_for

pytestmark = pytest.mark.interop
TIMEOUT = 120
MIB = 1 << 20


class Served:
    """A server, its backup, and `pgbackup serve` over that until the end of the module."""

    def __init__(self, directory: Path, primary: Cluster, run_directory: Path) -> None:
        self.directory = directory
        self.primary = primary
        self.spaces = make_loaded(primary)
        self.repo = directory / "repo"
        words = ("-B", self.repo, "-d", primary.conninfo(), "-c", "fast", "-q")
        succeed(directory, "backup", *words)
        self.socket = run_directory / "socket"
        self.running = begin(
            directory, "serve", "-B", self.repo, "--listen", self.socket, "--grace", "20"
        )
        wait_for(lambda: self.socket.exists() and list(self.socket.iterdir()))

    def client(
        self, name: str, *words: object, major: int = 15
    ) -> subprocess.CompletedProcess[str]:
        """Run a stock client against it."""
        return subprocess.run(
            [client_bin(name, major), "-h", self.socket, "-U", user_name(), *map(str, words)],
            env=program_environment(), capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip

    def take(self, target: Path, *words: object, major: int = 15) -> None:
        """Have pg_basebackup make something of the backup."""
        done = self.client("pg_basebackup", "-D", target, *words, major=major)
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr

    def mapped(self, place: Path) -> list[str]:
        """Options that put the tablespaces beside a target."""
        words = []
        for space in self.spaces:
            words += ["-T", f"{str(space).replace('=', chr(92) + '=')}={place}-{space.name[0]}"]
        return words

    def verify(self, target: Path, *words: str) -> None:
        done = subprocess.run(
            [client_bin("pg_verifybackup", 15), *words, target],
            env=program_environment(), capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def served(
    module_cluster_factory: ClusterFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("served")
    with tempfile.TemporaryDirectory(prefix="pgb-serve-") as run_directory:
        made = Served(directory, module_cluster_factory(15), Path(run_directory))
        try:
            yield made
        finally:
            made.running.send(signal.SIGTERM)
            answer = made.running.wait()
        assert answer.status == 0, answer.err
        assert list(made.socket.iterdir()) == []


@pytest.mark.parametrize("wal", ["fetch", "stream"])
def test_a_plain_backup_verifies_and_starts(served: Served, tmp_path: Path, wal: str) -> None:
    target = tmp_path / "data"
    served.take(target, "-Fp", "-X", wal, "-P", *served.mapped(target))
    served.verify(target)
    with Cluster.open_existing(target, 15) as restored:
        for space in served.spaces:
            restored.account.give(Path(f"{target}-{space.name[0]}"))
        restored.start()
        check_balances(restored)
        check_structure(restored)
        assert restored.sql("SELECT count(*) FROM pgbench_accounts") == [(100_000,)]


@pytest.mark.parametrize(
    "words",
    [
        ("-X", "none"),
        ("-X", "fetch", "--compress=server-zstd"),
        ("-X", "stream", "--compress=server-gzip:1"),
        ("-X", "fetch", "--compress=client-zstd:1", "-Ft"),
        ("-X", "stream", "-Ft"),
        ("-X", "none", "-r", "100M", "-Ft"),
        ("-X", "fetch", "--compress=server-zstd", "-Ft"),
    ],
    ids=" ".join,
)
def test_each_form_of_a_backup_is_whole(
    served: Served, tmp_path: Path, words: tuple[str, ...]
) -> None:
    target = tmp_path / "data"
    is_tar = "-Ft" in words
    served.take(target, *words, *([] if is_tar else served.mapped(target)))
    if is_tar:
        target = unpacked(target)
    served.verify(target, *(["-n"] if "none" in words or is_tar else []))


def test_the_memory_that_base_backups_took_goes_back(served: Served, tmp_path: Path) -> None:
    sizes = []
    for number in range(6):
        served.take(tmp_path / str(number), "-Ft", "-X", "none")
        status = Path(f"/proc/{served.running.process.pid}/status").read_text()
        sizes += [int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line]
    assert sizes[-1] - sizes[0] < 8 << 10, "kB, for five backups; the pages of one are 8 MiB"


def unpacked(taken: Path) -> Path:
    """The data directory of a backup in tar format, its tablespaces within and no links."""
    target = taken.parent / "unpacked"
    for archive in sorted(taken.glob("*.tar*")):
        name = archive.name.partition(".")[0]
        place = target / {"base": "", "pg_wal": "pg_wal"}.get(name, f"pg_tblspc/{name}")
        place.mkdir(parents=True, exist_ok=True)
        words = ["tar", "-C", place, "--exclude=pg_tblspc/?*", "-x"]
        subprocess.run(words, input=plain(archive), check=True, timeout=TIMEOUT)
    (target / "backup_manifest").write_bytes((taken / "backup_manifest").read_bytes())
    return target


def plain(archive: Path) -> bytes:
    data = archive.read_bytes()
    if archive.suffix != ".zst":
        return data
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        return reader.read()


def test_a_black_hole_gets_everything_and_keeps_nothing(served: Served) -> None:
    done = served.client("pg_basebackup", "-t", "blackhole", "-X", "none")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("major", [17, 18])
def test_newer_clients_are_content(served: Served, tmp_path: Path, major: int) -> None:
    target = tmp_path / "data"
    served.take(target, "-Fp", "-X", "stream", *served.mapped(target), major=major)
    served.verify(target)


def test_what_is_not_served_is_an_error_of_the_client(served: Served, tmp_path: Path) -> None:
    target = tmp_path / "data"
    done = served.client("pg_basebackup", "-D", target, "-Ft", "--compress=server-lz4")
    assert done.returncode == 1
    assert "does not support compression with LZ4" in done.stderr
    assert not target.exists()


def test_pg_receivewal_makes_the_same_files(served: Served, tmp_path: Path) -> None:
    listed = succeed(tmp_path, "wal", "list", "-B", served.repo, "--json").document
    first = Segment.parse(listed["timelines"][0]["stretches"][0]["first"], MIB)
    target = tmp_path / "wal"
    target.mkdir()
    assert served.client("pg_receivewal", "--create-slot", "-S", "copy").returncode == 0
    start = target / f"{first.name}.partial"
    start.write_bytes(bytes(MIB))
    end = Lsn(first.end - 1)
    done = served.client(
        "pg_receivewal", "-D", target, "-S", "copy", "--synchronous", "-n", "--endpos", end
    )
    assert done.returncode == 0, done.stderr
    assert (target / first.name).read_bytes() == archived(served, first, tmp_path)
    assert served.client("pg_receivewal", "--drop-slot", "-S", "copy").returncode == 0


def archived(served: Served, segment: Segment, directory: Path) -> bytes:
    """A segment as wal-get gives it."""
    target = directory / "archived"
    succeed(directory, "wal-get", "-B", served.repo, segment.name, target)
    return target.read_bytes()
