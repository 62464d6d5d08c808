"""python -m tests.faults.killed REPO CONNINFO CALL N [PGDATA]: back up, and die at a call.

It dies before the N-th call. The call is a method of FileSystem; a run that has fewer of them
succeeds. With PGDATA it reads that directory itself.
"""

import sys
from functools import partial

from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.pgdata.takelocal import LocalSource, take_local_backup
from pgbackup.backup.request import BackupRequest
from pgbackup.backup.take import take_backup
from pgbackup.replication.libpq import LibpqTransport
from pgbackup.repo.repository import Repository
from pgbackup.storage.local import LocalStorage
from pgbackup.stream.compress import ZstdSettings
from pgbackup.stream.progress import SilentMeter
from tests.restore.killed import KillingFileSystem


def main(repo: str, conninfo: str, call: str, number: str, pgdata: str = "") -> None:
    def connect(*, replicates: bool = True) -> LibpqTransport:
        transport = LibpqTransport()
        transport.connect(conninfo, "killed", replicates=replicates)
        return transport

    storage = LocalStorage(repo, filesystem=KillingFileSystem(call, int(number)))
    request = BackupRequest(fast_checkpoint=True, compression=ZstdSettings(1, 1))
    repository = partial(Repository.open, storage, create=True)
    if pgdata:
        sql = partial(connect, replicates=False)
        source = LocalSource(DataDirectory.open(pgdata), connect, sql)
        take_local_backup(source, repository, request, SilentMeter())
    else:
        take_backup(connect, repository, request, SilentMeter())


if __name__ == "__main__":
    main(*sys.argv[1:])
