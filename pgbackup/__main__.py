"""Start of the program: the WAL hooks take the import-light way, everything else goes to `cli`."""

import sys

HOOKS = ("wal-push", "wal-get")
HELP = ("--help", "-?")


def main() -> None:
    """Run the command line and exit with its status."""
    verb, words = "".join(sys.argv[1:2]), sys.argv[2:]
    if verb in HOOKS and not any(word in HELP for word in words):
        from pgbackup.archiving.command import run_hook  # noqa: PLC0415 - only the hooks need it

        run_hook(verb, words)
    try:
        from pgbackup.cli.app import run  # noqa: PLC0415 - slow to load; the hooks do not need it
    except KeyboardInterrupt:  # once loaded, it takes signals itself
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
