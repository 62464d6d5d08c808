"""The peer pgBackRest: Debian's package, set up for one repository and one cluster."""

import shutil
import subprocess
from pathlib import Path

from tests.cluster import Cluster

PROCESSES = "2"


def is_installed() -> bool:
    """Whether there is anything to compare with."""
    return shutil.which("pgbackrest") is not None


def configure(cluster: Cluster, work: Path, repository: Path, level: str, *more: str) -> list[str]:
    """Write its configuration; return the words that every command of it begins with.

    Small files are bundled, its fastest form. archive_mode is off: it would archive into both
    repositories while being timed.
    """
    configuration = work / f"pgbackrest-{level}.conf"
    lines = [
        "[global]",
        f"repo1-path={repository}",
        "repo1-bundle=y",
        "repo1-retention-full=1",
        f"lock-path={work / 'lock'}",
        "log-level-console=error",
        "log-level-file=off",
        "compress-type=zst",
        f"compress-level={level}",
        f"process-max={PROCESSES}",
        "start-fast=y",
        "archive-check=n",
        *more,
        "[bench]",
        f"pg1-path={cluster.pgdata}",
        f"pg1-socket-path={cluster.run_directory}",
        f"pg1-port={cluster.port}",
        "pg1-user=postgres",
    ]
    configuration.write_text("\n".join(lines) + "\n")
    return ["pgbackrest", f"--config={configuration}", "--stanza=bench"]


def back_up(cluster: Cluster, work: Path, repository: Path) -> list[str]:
    """Take a full backup at level 1; return the words that every command begins with."""
    repository.mkdir()
    words = configure(cluster, work, repository, "1")
    subprocess.run([*words, "stanza-create"], check=True)
    subprocess.run([*words, "--type=full", "backup"], check=True)
    return words
