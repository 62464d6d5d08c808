"""python -m tests.serve.slotting REPO CALL N: use slots, and die before the N-th such call.

The call is a method of FileSystem. Prints what is done with the slot "own", when it is done.
"""

import sys

from pgbackup.pg.lsn import Lsn, Timeline, WalPosition
from pgbackup.repo.repository import Repository
from pgbackup.serve.slots import Slots
from pgbackup.storage.local import LocalStorage
from tests.repo.samples import MIB, SYSTEM
from tests.restore.killed import KillingFileSystem

PID = 4711
REPORTS = [5, 9, 3]
"""Megabytes that the client has flushed, with a step back."""


def main(repo: str, call: str, number: str) -> None:
    storage = LocalStorage(repo, filesystem=KillingFileSystem(call, int(number)))
    times = iter(range(0, 10_000, 10))
    slots = Slots(Repository.open(storage).cluster(SYSTEM), PID, clock=lambda: next(times))
    slots.create("own")
    print("created", flush=True)
    slots.create("short", is_temporary=True, reserve=WalPosition(Timeline(1), Lsn(MIB)))
    with slots.acquire("own") as held:
        for report in REPORTS:
            held.confirm(WalPosition(Timeline(1), Lsn(report * MIB)))
            print(report, flush=True)
    slots.drop("own")
    print("dropped", flush=True)
    slots.drop_temporary()


if __name__ == "__main__":
    main(*sys.argv[1:])
