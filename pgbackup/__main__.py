"""Start of the program: the WAL hooks take the import-light way, everything else goes to `cli`."""

import gc
import sys

COLLECT_EVERY = 50_000
"""Allocations between two garbage collections. Python's 700 costs a sixth of each start, and
finds nothing: what is loaded stays, and the data path makes no cycles."""


def main() -> None:
    """Run the command line and exit with its status."""
    gc.set_threshold(COLLECT_EVERY)
    try:
        from pgbackup.cli.app import run  # noqa: PLC0415 - slow to load; the WAL hooks need it not
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
