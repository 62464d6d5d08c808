"""What benchmarks over a cluster share: their options, and a directory for the time of a run."""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def make_parser(description: str | None, gigabytes: float) -> argparse.ArgumentParser:
    """The options of all of them; gigabytes is the default size of the cluster."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--gigabytes", type=float, default=gigabytes)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--quick", action="store_true", help="a small run that keeps this alive")
    return parser


def parse_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for on the command line."""
    options = parser.parse_args()
    if options.quick:
        options.gigabytes, options.rounds = 0.05, 1
    return options


@contextmanager
def workplace(directory: Path) -> Iterator[Path]:
    """A new directory on the file system under test, which servers can enter."""
    work = Path(tempfile.mkdtemp(prefix="pgbackup-bench-", dir=directory))
    work.chmod(0o755)
    try:
        yield work
    finally:
        shutil.rmtree(work)


def clear(path: Path) -> None:
    """Give the space of the last run back before the names are removed."""
    for file in path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.write_bytes(b"")
    shutil.rmtree(path, ignore_errors=True)
