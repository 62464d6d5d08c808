"""The crontab of the README, run as cron would: overlapping, killed, on a full disk."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbackup.replication.libpq import parse_conninfo
from tests.care.test_cron import expect_exactly, grow_old, load
from tests.cli import program
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.waiting import wait_for

KEPT = 7
"""What the README keeps."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


class Crontab:
    """The lines of the README, as a cron of ours starts them."""

    def __init__(self, directory: Path, repo: Path, server: Cluster) -> None:
        text = (program.ROOT / "README.md").read_text()
        text = text.partition("<!-- crontab -->\n```\n")[2].partition("```")[0]
        lines = [line for line in text.splitlines() if line]
        settings = dict(line.split("=", 1) for line in lines if "=" in line.split()[0])
        assert settings.keys() == {"PGBACKUP_REPO", "PGSERVICE"}
        self.maintain, self.check = (line.split(maxsplit=5)[5] for line in lines[2:])
        services = directory / "pg_service.conf"
        services.write_text(f"[{settings['PGSERVICE']}]\n" + service(server))
        self._directory = directory
        self._settings = settings | {"PGBACKUP_REPO": str(repo), "PGSERVICEFILE": str(services)}

    def begin(self, line: str) -> subprocess.Popen[bytes]:
        """Start a line in the shell that cron would use."""
        own = shlex.join(program.command())
        script = f'pgbackup() {{ exec {own} "$@"; }}; {line}'
        return subprocess.Popen(
            ["/bin/sh", "-c", script], cwd=self._directory,
            env=program.environment(self._settings), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, line: str) -> tuple[int, str]:
        """The status of a line, and what cron would mail."""
        return finish(self.begin(line))


def service(server: Cluster) -> str:
    """What a service file says of the server."""
    settings = parse_conninfo(server.conninfo("postgres"))
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=program.TIMEOUT)
    return process.returncode, out.decode()


WELL = (0, "")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_ten_days_of_the_readmes_crontab_leave_the_archive_complete_and_the_retention_exact(
    cluster_factory: ClusterFactory, tmp_path: Path, small_disk: Path
) -> None:
    settings = {"checkpoint_completion_target": 0, "max_slot_wal_keep_size": "1GB"}
    server = cluster_factory(17, settings=settings)
    repo = small_disk / "pgbackup-repo"
    cron = Crontab(tmp_path, repo, server)
    taken: list[str] = []
    for day in range(KEPT + 3):
        grow_old(small_disk)
        load(server)
        if day == 2:
            overlap(cron)
        elif day == 4:
            kill(cron, repo)
        elif day == KEPT + 1:
            run_full(cron, small_disk)
        assert cron.run(cron.maintain) == WELL
        taken.append(newest(repo))
    assert len(set(taken)) == KEPT + 3
    assert cron.run(cron.maintain) == WELL
    expect_exactly(repo, taken[-KEPT:])
    _, mail = cron.run(cron.check)
    found = [line for line in mail.splitlines() if not line.startswith(" ")]
    assert [line.split(":")[0] for line in found] == ["critical  fsync"], mail


def newest(repo: Path) -> str:
    return max(path.parent.name for path in repo.glob("*/backups/*/backup.json"))


def overlap(cron: Crontab) -> None:
    """Three at once: one does the work."""
    runs = [cron.begin(cron.maintain) for _ in range(3)]
    assert [finish(run) for run in runs] == [WELL] * 3


def kill(cron: Crontab, repo: Path) -> None:
    """One that dies while it takes a backup."""
    before = set(repo.glob("*/backups/*"))
    run = cron.begin(cron.maintain)
    wait_for(lambda: set(repo.glob("*/backups/*")) > before)
    run.kill()
    assert finish(run)[0] < 0


def run_full(cron: Crontab, disk: Path) -> None:
    """One that finds no space, and says so."""
    free = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - (1 << 20)))
    status, mail = cron.run(cron.maintain)
    ballast.unlink()
    assert status == 4
    assert "no space left" in mail, mail
