"""python -m tests.faults.impatient SECONDS VERB ...: the program, with a patience of its own.

SECONDS is how long a server may say nothing; it is a minute otherwise.
"""

import sys

from pgbackup.cli.app import run
from pgbackup.replication import client, walreceiver


def main(seconds: str, *words: str) -> int:
    walreceiver.SILENCE_LIMIT = client.ANSWER_LIMIT = float(seconds)
    return run(words)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
