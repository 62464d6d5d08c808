"""python -m tests.restore.killed REPO DIRECTORY CALL N [delta]: restore, and die at the N-th call.

A call is a method of FileSystem, "before" or "after" which the process gets SIGKILL.
"""

import os
import signal
import sys

from pgbackup.repo.repository import Repository
from pgbackup.restore.plan import plan_restore
from pgbackup.restore.run import run_restore
from pgbackup.storage.durable import FileSystem
from pgbackup.storage.local import LocalStorage
from pgbackup.stream.progress import SilentMeter


class KillingFileSystem(FileSystem):
    def __init__(self, call: str, number: int) -> None:
        self._left = number
        original = getattr(self, call)

        def killing(*arguments: object, **options: object) -> object:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(self, call, killing)


def main(repo: str, directory: str, call: str, number: str, delta: str = "") -> None:
    cluster = Repository.open(LocalStorage(repo)).only_cluster()
    plan = plan_restore(cluster.catalog.get("latest"), directory, delta=bool(delta))
    filesystem = KillingFileSystem(call, int(number))
    run_restore(plan, cluster, jobs=2, meter=SilentMeter(), filesystem=filesystem)


if __name__ == "__main__":
    main(*sys.argv[1:])
