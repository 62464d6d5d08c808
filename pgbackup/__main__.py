"""Start of the program: the WAL hooks take the import-light way, everything else goes to `cli`."""

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from pgbackup.cli.app import run  # noqa: PLC0415 - slow to load; the WAL hooks do not need it

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
