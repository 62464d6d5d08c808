"""What makes bytes survive a power cut: the only callers of fsync, rename, link and syncfs.

FileSystem is a thin, stateless layer over the system calls that change a disk; its methods raise
plain OSError, so that a test can replace the instance and fail any call. `storage_errors` is the
edge where an OSError becomes an error for the user, in one wording for all.

A failed fsync is final: the kernel has dropped the pages and the next fsync on the same descriptor
would lie. Whoever gets an error from here abandons the file; nothing in this module tries again.

The WAL hooks run this once per segment: what is slow to load is not, or when it is needed.
"""

# ruff: noqa: PTH100, PTH112, PTH120

import errno
import os

TYPE_CHECKING = False  # that of typing, which is slow to load
if TYPE_CHECKING:
    from types import TracebackType

    from pgbackup.errors import PgbackupError

PathName = str | os.PathLike[str]

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Some network and FUSE file systems cannot sync a directory; they keep names in order themselves.
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP)

_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_REASONS = {
    errno.ENOENT: "no such file or directory",
    errno.ENOSPC: "no space left on device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EROFS: "the file system is mounted read-only",
    errno.ELOOP: "a symbolic link is in the way",
    errno.EXDEV: "it would cross a mount point",
}
_HINTS = {
    errno.ENOSPC: 'Make room on the device, or run "pgbackup expire --dry-run" to see what can go.',
    errno.EDQUOT: 'Raise the quota, or run "pgbackup expire --dry-run" to see what can go.',
    errno.EACCES: "Run pgbackup as the user that owns the repository.",
    errno.EPERM: "Run pgbackup as the user that owns the repository.",
    errno.EROFS: "Mount the file system for writing.",
    errno.EIO: 'Look for disk errors in the system log, for example with "dmesg".',
    errno.EMFILE: 'Raise the limit on open files, for example with "ulimit -n 4096".',
    errno.ENFILE: 'Raise the limit on open files, for example with "sysctl fs.file-max".',
}


def storage_error(action: str, name: str, error: OSError) -> "PgbackupError":
    """Word an OSError for the user.

    action: verb and kind of thing, as in "write object".
    """
    from pgbackup.errors import NotFound, StorageDenied, StorageError  # noqa: PLC0415

    number = error.errno or 0
    reason = _REASONS.get(number) or _lower_first(error.strerror or str(error))
    message = f'could not {action} "{name}": {reason}'
    if number == errno.ENOENT:
        return NotFound(message)
    kind = StorageDenied if number in _DENIED else StorageError
    return kind(message, hint=_HINTS.get(number))


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


class storage_errors:  # noqa: N801 - reads as the statement that it is
    """Turn an OSError raised inside the block into NotFound, StorageDenied or StorageError.

    action, name: as in storage_error.
    """

    def __init__(self, action: str, name: str) -> None:
        self._action = action
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        if isinstance(value, OSError):
            raise storage_error(self._action, self._name, value) from value


def syncfs_reports_errors() -> bool:
    """Tell whether this kernel reports failed write-back from syncfs: Linux 5.8 and later.

    On an older one every file must be synced by itself.
    """
    system, _, release, *_ = os.uname()
    major, _, rest = release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    if system != "Linux" or not (major.isdecimal() and minor.isdecimal()):
        return False
    return (int(major), int(minor)) >= (5, 8)


class FileSystem:
    """The system calls that change a disk, one method each.

    Paths are taken relative to `dir_fd` where one is given. Every method raises OSError. The modes
    given are the modes made, whatever the umask says.
    """

    def open_new(self, path: PathName, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
        """Create a file for writing and return its descriptor. Never opens what exists."""
        fd = os.open(path, _NEW_FILE_FLAGS, mode, dir_fd=dir_fd)
        try:
            os.fchmod(fd, mode)
        except OSError:
            os.close(fd)
            raise
        return fd

    def write(self, fd: int, view: memoryview) -> int:
        """Write some of the bytes; return how many."""
        return os.write(fd, view)

    def write_all(self, fd: int, view: bytes | bytearray | memoryview) -> None:
        """Write all of the bytes at the current position, however short the single writes are."""
        with memoryview(view) as whole, whole.cast("B") as left:
            done = 0
            while done < len(left):
                with left[done:] as rest:
                    written = self.write(fd, rest)
                if written <= 0:
                    raise OSError(errno.EIO, "the device accepted no data")
                done += written

    def pwrite(self, fd: int, view: memoryview, offset: int) -> int:
        """Write some of the bytes at an offset; return how many."""
        return os.pwrite(fd, view, offset)

    def pwrite_all(self, fd: int, view: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of the bytes at an offset, however short the single writes are."""
        with memoryview(view) as whole, whole.cast("B") as left:
            done = 0
            while done < len(left):
                with left[done:] as rest:
                    written = self.pwrite(fd, rest, offset + done)
                if written <= 0:
                    raise OSError(errno.EIO, "the device accepted no data")
                done += written

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        """Have the kernel begin writing a range now, so that the fsync at the end is short.

        Also lets go of the pages once written: a backup should not push the database out of
        memory. Promises nothing.
        """
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)

    def fsync(self, fd: int) -> None:
        """Make a file durable. After an error the file must be given up."""
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        """Make the content of a file of settled size durable. After an error give it up."""
        os.fdatasync(fd)

    def fsync_directory(self, path: PathName | int) -> None:
        """Make the names in a directory durable; given by path or by descriptor."""
        fd = path if isinstance(path, int) else os.open(path, DIRECTORY_FLAGS)
        try:
            self.fsync(fd)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY_SYNC:
                raise
        finally:
            if fd != path:
                os.close(fd)

    def sync_file_system(self, fd: int) -> None:
        """Make everything on the file system of `fd` durable, much faster than file by file.

        fd: opened before the first of the writes in question, or their errors go unnoticed.

        Only where syncfs_reports_errors().
        """
        import ctypes  # noqa: PLC0415 - rarely needed, slow to load

        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def close(self, fd: int) -> None:
        """Close a descriptor. An error means that written data may be lost."""
        os.close(fd)

    def link(self, existing: PathName, new: PathName, *, dir_fd: int | None = None) -> None:
        """Give a file a second name; FileExistsError if that is taken. The one atomic create."""
        os.link(existing, new, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)

    def rename(self, existing: PathName, new: PathName, *, dir_fd: int | None = None) -> None:
        """Rename a file over whatever has the new name."""
        os.rename(existing, new, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def unlink(self, path: PathName, *, dir_fd: int | None = None) -> None:
        """Remove a name."""
        os.unlink(path, dir_fd=dir_fd)

    def make_directory(
        self, path: PathName, mode: int = 0o700, *, dir_fd: int | None = None
    ) -> None:
        """Create one directory durably: the parent is synced too. Success if it exists."""
        try:
            os.mkdir(path, mode, dir_fd=dir_fd)
        except FileExistsError:
            return
        try:
            os.chmod(path, mode, dir_fd=dir_fd)
            self.fsync_directory(os.path.dirname(path) or "." if dir_fd is None else dir_fd)
        except OSError:
            try:  # or the next one would take it for durable  # noqa: SIM105
                os.rmdir(path, dir_fd=dir_fd)
            except OSError:
                pass
            raise

    def make_directories(self, path: PathName, mode: int = 0o700) -> None:
        """Create a directory and the missing ones above it, each synced into its parent."""
        path = os.path.abspath(path)
        if os.path.isdir(path):
            return
        self.make_directories(os.path.dirname(path), mode)
        self.make_directory(path, mode)

    def remove_directory(self, path: PathName, *, dir_fd: int | None = None) -> None:
        """Remove an empty directory."""
        os.rmdir(path, dir_fd=dir_fd)
