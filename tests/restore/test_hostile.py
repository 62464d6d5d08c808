"""Archives that try to write elsewhere: refused, and nothing outside the target is touched."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from crc32c import crc32c

from pgbackup.errors import CorruptData, PgbackupError
from pgbackup.repo import layout
from pgbackup.repo.record import decode_record, encode_record
from pgbackup.restore.plan import plan_restore
from pgbackup.restore.run import run_restore
from pgbackup.storage.durable import FileSystem
from pgbackup.storage.memory import MemoryStorage
from pgbackup.stream.index import encode_entry
from pgbackup.stream.progress import SilentMeter
from tests.backup.sample import (
    LABEL,
    OID,
    SYSTEM,
    Member,
    directory,
    index,
    rewrite,
    sample,
    symlink,
)
from tests.restore.test_run import restore


def canary(top: Path) -> None:
    """A small home directory next to the target."""
    (top / "home" / "user").mkdir(parents=True)
    (top / "home" / "user" / ".bashrc").write_text("safe")
    (top / "data-evil").mkdir()
    (top / "data-evil" / "file").write_text("safe")


def snapshot(top: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path.relative_to(top)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [top, *top.rglob("*")]
    }


def listed(*members: Member) -> list[Member]:
    """Members whose names the manifest has, so that only their names can give them away."""
    return [
        Member(m.name, m.content, m.type, m.linkname, m.mode, in_manifest=m.type == "0")
        for m in members
    ]


HOSTILE: dict[str, Callable[[Path], list[Member]]] = {
    "parent": lambda top: listed(Member("../home/user/.bashrc", b"evil")),
    "parent-inside": lambda top: listed(Member("base/../../home/user/.bashrc", b"evil")),
    "parent-at-end": lambda top: listed(directory("base/..")),
    "absolute": lambda top: listed(Member(f"{top}/home/user/.bashrc", b"evil")),
    "double-slash": lambda top: listed(Member("base//1/x", b"evil")),
    "dot": lambda top: listed(Member("base/./x", b"evil")),
    "two-dots-slash": lambda top: listed(Member("././x", b"evil")),
    "dot-slash-parent": lambda top: listed(Member("./../home/user/.bashrc", b"evil")),
    "trailing-slash": lambda top: listed(Member("base/1/x/", b"evil")),
    "only-dots": lambda top: listed(Member("..", b"evil")),
    "sibling-prefix": lambda top: listed(Member("../data-evil/file", b"evil")),
    "symlink": lambda top: listed(symlink("x", f"{top}/home/user"), Member("x/.bashrc", b"evil")),
    "symlink-alone": lambda top: [symlink("base/1/link", f"{top}/home/user")],
    "symlink-beside-a-tablespace": lambda top: [symlink("pg_tblspc/x", f"{top}/home/user")],
    "symlink-of-no-oid": lambda top: [symlink("pg_tblspc/0666", f"{top}/home/user")],
    "symlink-below-a-tablespace": lambda top: [symlink("pg_tblspc/16400/1", f"{top}/home/user")],
    "symlink-over-a-file": lambda top: [symlink("base/1/1259", f"{top}/home/user/.bashrc")],
    "file-over-a-symlink": lambda top: listed(
        symlink("pg_tblspc/666", f"{top}/home/user"), Member("pg_tblspc/666/.bashrc", b"evil")
    ),
    "below-a-tablespace-link": lambda top: listed(
        directory("pg_tblspc/16400/PG_15_202209061"),
        Member("pg_tblspc/16400/PG_15_202209061/x", b"evil"),
    ),
    "tablespace-link-as-directory": lambda top: [directory("pg_tblspc/16400")],
    "tablespace-link-as-file": lambda top: listed(Member("pg_tblspc/16400", b"evil")),
    "same-file-twice": lambda top: [Member("base/1/1259", b"evil", in_manifest=False)],
    "same-directory-twice": lambda top: [directory("base/1")],
    "file-below-a-file": lambda top: listed(Member("PG_VERSION/x", b"evil")),
    "no-directory": lambda top: listed(Member("nowhere/x", b"evil")),
    "hard-link": lambda top: [Member("base/1/x", b"", "1", f"{top}/home/user/.bashrc")],
    "character-device": lambda top: [Member("base/1/x", b"", "3")],
    "block-device": lambda top: [Member("base/1/x", b"", "4")],
    "fifo": lambda top: [Member("base/1/x", b"", "6")],
    "contiguous": lambda top: [Member("base/1/x", b"evil", "7")],
    "sparse": lambda top: [Member("base/1/x", b"evil", "S")],
    "gnu-long-name": lambda top: [Member("././@LongLink", b"../x\0", "L")],
    "gnu-long-link": lambda top: [Member("././@LongLink", b"../x\0", "K")],
    "pax": lambda top: [Member("pax", b"30 path=../home/user/.bashrc\n", "x")],
    "pax-global": lambda top: [Member("pax", b"30 path=../home/user/.bashrc\n", "g")],
    "not-in-the-manifest": lambda top: [Member("base/1/extra", b"evil", in_manifest=False)],
    "our-own-manifest": lambda top: listed(Member("backup_manifest", b"evil")),
    "our-unfinished-name": lambda top: listed(Member("global/pg_control.pgbackup", b"evil")),
    "deep": lambda top: [directory("/".join("d" * depth)) for depth in range(1, 40)],
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("place", [-1, -3], ids=["last", "before-control"])
def test_a_hostile_member_writes_nothing_anywhere(
    tmp_path: Path, make: Callable[[Path], list[Member]], place: int
) -> None:
    canary(tmp_path)
    made = sample(tablespace=str(tmp_path / "space"))
    base = made.archives[None]
    base[len(base) + 1 + place if place == -1 else place : place] = make(tmp_path)
    cluster = made.put(MemoryStorage())
    before = snapshot(tmp_path)
    with pytest.raises(PgbackupError):
        restore(cluster, tmp_path / "data")
    after = snapshot(tmp_path)
    # The target may have come and gone.
    del before["."], after["."]
    assert after == before


@pytest.mark.parametrize(
    "member",
    [
        Member("x", b"evil", in_manifest=True),
        Member("PG_15_202209061/../../x", b"evil", in_manifest=True),
        Member("PG_15_202209061x/y", b"evil", in_manifest=True),
        symlink("PG_15_202209061/link", "/etc"),
        symlink(f"pg_tblspc/{OID}", "/etc"),
        directory("PG_15_202209061/5"),
    ],
    ids=["top", "parent", "other-directory", "link", "nested-link", "twice"],
)
def test_a_hostile_member_of_a_tablespace_is_refused(tmp_path: Path, member: Member) -> None:
    made = sample(tablespace=str(tmp_path / "space"))
    made.archives[OID].append(member)
    with pytest.raises(CorruptData, match="could not use member"):
        restore(made.put(MemoryStorage()), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_an_index_that_hides_a_member_is_refused(tmp_path: Path) -> None:
    canary(tmp_path)
    made = sample()
    evil = Member("../home/user/.bashrc", b"evil", in_manifest=False)
    made.archives[None].insert(5, evil)
    storage = MemoryStorage()
    hidden = made.archives[None].copy()

    cluster = made.put(storage)
    lines = index(hidden).splitlines(keepends=True)
    del lines[5]
    _replace_index(storage, b"".join(lines))
    with pytest.raises(CorruptData, match="could not use the index"):
        restore(cluster, tmp_path / "data")
    assert (tmp_path / "home" / "user" / ".bashrc").read_text() == "safe"
    assert not (tmp_path / "data").exists()


def test_an_index_with_a_harmless_name_for_a_hostile_one_is_refused(tmp_path: Path) -> None:
    canary(tmp_path)
    made = sample()
    made.archives[None].insert(5, Member("../home/user/.bashrc", b"evil", in_manifest=False))
    storage = MemoryStorage()
    cluster = made.put(storage)
    lines = index(made.archives[None]).splitlines(keepends=True)
    offset = int(lines[5].split(b"\t")[0])
    lines[5] = encode_entry(Member("base/1/1260", b"evil").header(), offset)
    _replace_index(storage, b"".join(lines))
    with pytest.raises(CorruptData):
        restore(cluster, tmp_path / "data")
    assert (tmp_path / "home" / "user" / ".bashrc").read_text() == "safe"


def test_a_file_that_is_something_else_than_the_index_says_is_refused(tmp_path: Path) -> None:
    """Or it would be missing without a word."""
    made = sample()
    made.compressed = False
    storage = MemoryStorage()
    cluster = made.put(storage)
    name = layout.backup_folder(SYSTEM, LABEL) + "base.tar"
    data = bytearray(storage.read(name))
    at = data.index(b"base/1/empty\0")
    data[at : at + 512] = directory("base/1/empty").encode()
    rewrite(storage, name, bytes(data))
    with pytest.raises(CorruptData, match="could not use the index"):
        restore(cluster, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_directory_replaced_by_a_link_while_restoring_is_not_followed(tmp_path: Path) -> None:
    """As a local attacker with the rights of the same user would."""
    canary(tmp_path)
    cluster = sample().put(MemoryStorage())

    class Swapping(FileSystem):
        def open_new(self, path: object, *arguments: object, **options: object) -> int:
            if path == "backup_label":
                (tmp_path / "data" / "base" / "1").rmdir()
                (tmp_path / "data" / "base" / "1").symlink_to(tmp_path / "home" / "user")
            return super().open_new(path, *arguments, **options)  # type: ignore[arg-type]

    plan = plan_restore(cluster.catalog.get(LABEL), str(tmp_path / "data"))
    with pytest.raises(PgbackupError, match="could not create file"):
        run_restore(plan, cluster, jobs=1, meter=SilentMeter(), filesystem=Swapping())
    assert [path.name for path in (tmp_path / "home" / "user").iterdir()] == [".bashrc"]
    assert not (tmp_path / "data").exists()


def _replace_index(storage: MemoryStorage, data: bytes) -> None:
    """Swap an index, and let the record agree with it."""
    folder = layout.backup_folder(SYSTEM, LABEL)
    rewrite(storage, folder + "base.index", data)
    name = layout.record_object(SYSTEM, LABEL)
    found = decode_record(storage.read(name), name)
    objects = tuple(
        replace(each, size=len(data), crc32c=f"{crc32c(data):08x}")
        if each.name == "base.index"
        else each
        for each in found.objects
    )
    rewrite(storage, name, encode_record(replace(found, objects=objects)))
