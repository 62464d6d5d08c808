"""The members of archives become files: the end of a restore.

One Extractor works for one stretch on one thread. It only makes files, in directories that were
made beforehand from names that were found safe, by descriptor and without following a link; what
exists is never opened. Each file is compared with the manifest while it is written.

Owner, times and any mode bits beyond read and write are not taken from an archive.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pgbackup.backup.members import CONTROL_FILE, ContentCheck, data_path, plain_name, printable
from pgbackup.errors import CorruptData
from pgbackup.pg.manifest import ManifestFile
from pgbackup.pg.tar import FILE, TarHeader
from pgbackup.restore.newfile import NewFile, target_errors
from pgbackup.restore.tree import Tree, raw_name
from pgbackup.storage.durable import FileSystem

# Recovery would put the links of tablespace_map in place of ours; the others belong to the server
# as it was. A recovery.signal without settings for it stops a server from starting, and with
# standby.signal it would wait for a primary for ever.
LEFT_OUT = frozenset({"postmaster.pid", "tablespace_map", "recovery.signal", "standby.signal"})


@dataclass(frozen=True, slots=True)
class Site:
    """Where the members of one archive go.

    root:       descriptor of the directory; stays the caller's.
    name:       of that directory, for messages.
    tablespace: oid of the archive's tablespace; None for the data directory.
    prefix:     what comes before a member's name below root.
    """

    root: int
    name: str
    tablespace: int | None
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for all files of a restore.

    mode:      permission bits of directories, 0700 or 0750.
    sync:      make each file durable by itself.
    left_out:  paths that are checked and not made.
    kept:      paths that are there and right.
    """

    filesystem: FileSystem
    mode: int
    sync: bool
    left_out: frozenset[str] = LEFT_OUT
    kept: frozenset[str] = frozenset()

    @property
    def file_mode(self) -> int:
        """The most that a file may permit: 0600 or 0640."""
        return self.mode & 0o640


class Extractor:
    """Makes the files of one stretch.

    files:   of the manifest.
    control: descriptor of the file that becomes pg_control when all is done; stays the caller's.
    """

    def __init__(
        self, site: Site, rules: Rules, files: Mapping[str, ManifestFile], control: int
    ) -> None:
        self._site = site
        self._rules = rules
        self._files = files
        self._control = control
        self._tree = Tree(site.root)
        self._path = ""
        self._check: ContentCheck | None = None
        self._file: NewFile | None = None

    def begin_member(self, header: TarHeader, offset: int) -> None:
        if header.type != FILE:
            return
        self._path = data_path(self._site.tablespace, header.name)
        if self._path in self._rules.kept:
            return
        self._check = ContentCheck(self._files[self._path])
        if self._path == CONTROL_FILE:
            self._file = self._new_file(os.dup(self._control))
        elif self._path not in self._rules.left_out:
            mode = 0o600 | header.mode & self._rules.file_mode
            fd = self._create(self._site.prefix + plain_name(header.name), mode)
            self._file = self._new_file(fd)

    def member_contents(self, data: memoryview) -> None:
        if self._check is not None:
            self._check.update(data)
        if self._file is not None:
            self._file.write(data)

    def end_member(self) -> None:
        if self._check is None:
            return
        if not self._check.is_right():
            raise CorruptData(
                f'could not restore file "{printable(self._path)}": its checksum is not that of'
                " the manifest"
            )
        self._check = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Let go of everything, whether all went well or not."""
        if self._file is not None:
            self._file.abort()
            self._file = None
        self._tree.close()

    def _create(self, path: str, mode: int) -> int:
        directory, _, name = path.rpartition("/")
        with target_errors("create file", f"{self._site.name}/{printable(path)}"):
            return self._rules.filesystem.open_new(
                raw_name(name), mode, dir_fd=self._tree.directory(directory)
            )

    def _new_file(self, fd: int) -> NewFile:
        name = f"{self._site.name}/{printable(self._path)}"
        return NewFile(self._rules.filesystem, fd, name, sync=self._rules.sync)
