"""python -m tests.faults.killed REPO CONNINFO CALL N: back up, and die before the N-th such call.

The call is a method of FileSystem. A run that has fewer of them succeeds.
"""

import sys
from functools import partial

from pgbackup.backup.request import BackupRequest
from pgbackup.backup.take import take_backup
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.repo.repository import Repository
from pgbackup.storage.local import LocalStorage
from pgbackup.stream.compress import ZstdSettings
from pgbackup.stream.progress import SilentMeter
from tests.restore.killed import KillingFileSystem


def main(repo: str, conninfo: str, call: str, number: str) -> None:
    def connect() -> LibpqTransport:
        transport = LibpqTransport()
        transport.connect(conninfo, "killed")
        return transport

    storage = LocalStorage(repo, filesystem=KillingFileSystem(call, int(number)))
    request = BackupRequest(fast_checkpoint=True, compression=ZstdSettings(1, 1))
    repository = partial(Repository.open, storage, create=True)
    take_backup(connect, repository, request, SilentMeter())


if __name__ == "__main__":
    main(*sys.argv[1:])
