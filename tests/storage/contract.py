"""What every storage driver promises. A driver's test is a subclass with a `storage` fixture."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from pgbackup.errors import Conflict, CorruptData, Locked, NotFound, UsageError
from pgbackup.storage.api import Storage

HOSTILE_NAMES = [
    pytest.param("", id="empty"),
    pytest.param("/etc/passwd", id="absolute"),
    pytest.param("..", id="parent"),
    pytest.param("a/../../b", id="parent-within"),
    pytest.param("a/./b", id="dot"),
    pytest.param("a//b", id="empty-component"),
    pytest.param("a/", id="trailing-slash"),
    pytest.param(".hidden", id="hidden"),
    pytest.param("a/.hidden", id="hidden-within"),
    pytest.param("a b", id="space"),
    pytest.param("a\0b", id="nul"),
    pytest.param("a\n", id="newline"),
    pytest.param("a\\b", id="backslash"),
    pytest.param("ä", id="not-ascii"),
    pytest.param("a" * 161, id="long-component"),
    pytest.param("/".join(["a" * 100] * 11), id="long-name"),
]


def names(storage: Storage, prefix: str = "") -> list[str]:
    return [found.name for found in storage.list(prefix)]


def put(storage: Storage, name: str, data: bytes, *, replace: bool = False) -> None:
    with storage.writer(name) as writer:
        writer.write(data)
        writer.commit(replace=replace)


class StorageContract:
    """Always: the fixture gives a storage that nobody wrote to yet."""

    def test_committed_bytes_are_read_back(self, storage: Storage) -> None:
        put(storage, "a/b/c", b"hello")
        assert storage.read("a/b/c") == b"hello"

    @pytest.mark.parametrize("sizes", [[], [1], [4096, 4096], [8192, 100, 4096]], ids=str)
    def test_a_bulk_object_is_an_object(self, storage: Storage, sizes: list[int]) -> None:
        pieces = [bytes([size % 251]) * size for size in sizes]
        with storage.writer("a", is_bulk=True) as writer:
            for piece in pieces:
                writer.write(piece)
            assert writer.position == sum(sizes)
            writer.commit()
        assert storage.read("a") == b"".join(pieces)

    def test_create_stores_a_small_object(self, storage: Storage) -> None:
        storage.create("a", b"")
        assert storage.read("a") == b""
        assert storage.stat("a").size == 0

    def test_create_refuses_a_name_that_is_taken(self, storage: Storage) -> None:
        storage.create("a", b"first")
        with pytest.raises(Conflict, match=r'could not write object ".*a": it already exists'):
            storage.create("a", b"second")
        assert storage.read("a") == b"first"

    def test_commit_refuses_a_name_that_is_taken(self, storage: Storage) -> None:
        with storage.writer("a") as late:
            late.write(b"late")
            storage.create("a", b"early")
            with pytest.raises(Conflict):
                late.commit()
        assert storage.read("a") == b"early"
        assert names(storage) == ["a"]

    def test_commit_with_replace_takes_the_place(self, storage: Storage) -> None:
        storage.create("a", b"first")
        put(storage, "a", b"second", replace=True)
        assert storage.read("a") == b"second"
        put(storage, "new", b"third", replace=True)
        assert storage.read("new") == b"third"

    def test_an_open_reader_keeps_what_it_opened(self, storage: Storage) -> None:
        storage.create("a", b"first")
        with storage.reader("a") as reader:
            assert reader.read(1) == b"f"
            put(storage, "a", b"SECOND", replace=True)
            storage.delete("a")
            assert reader.read() == b"irst"

    def test_nothing_is_visible_before_commit(self, storage: Storage) -> None:
        with storage.writer("a/b") as writer:
            writer.write(b"x" * 100_000)
            assert not storage.exists("a/b")
            assert names(storage) == []
            with pytest.raises(NotFound):
                storage.stat("a/b")
            writer.commit()
        assert names(storage) == ["a/b"]

    def test_a_writer_left_without_commit_leaves_nothing(self, storage: Storage) -> None:
        with storage.writer("a/b") as writer:
            writer.write(b"x")
        with pytest.raises(KeyError), storage.writer("a/c") as writer:
            raise KeyError
        assert names(storage) == []

    def test_abort_can_be_repeated_and_follows_commit_without_effect(
        self, storage: Storage
    ) -> None:
        writer = storage.writer("a")
        writer.write(b"x")
        writer.commit()
        writer.abort()
        writer.abort()
        assert storage.read("a") == b"x"

    def test_a_finished_writer_refuses_to_go_on(self, storage: Storage) -> None:
        writer = storage.writer("a")
        writer.commit()
        with pytest.raises(ValueError, match="committed or aborted"):
            writer.write(b"x")
        with pytest.raises(ValueError, match="committed or aborted"):
            writer.commit()
        assert storage.read("a") == b""

    def test_position_counts_bytes_of_any_kind_of_buffer(self, storage: Storage) -> None:
        with storage.writer("a") as writer:
            writer.write(b"12")
            writer.write(bytearray(b"345"))
            writer.write(memoryview(b"..67..")[2:4])
            writer.write(memoryview(bytes(8)).cast("Q"))
            writer.write(b"")
            assert writer.position == 15
            writer.commit()
        assert storage.read("a") == b"1234567" + bytes(8)

    def test_a_written_buffer_is_not_kept(self, storage: Storage) -> None:
        buffer = bytearray(b"old")
        with storage.writer("a") as writer:
            writer.write(buffer)
            buffer[:] = b"new and longer"
            writer.commit()
        assert storage.read("a") == b"old"

    def test_a_range_is_read(self, storage: Storage) -> None:
        storage.create("a", bytes(range(100)))
        with storage.reader("a", 10, 5) as reader:
            assert reader.size == 100
            assert reader.read(3) == bytes([10, 11, 12])
            assert reader.read(3) == bytes([13, 14])
            assert reader.read(3) == b""
        with storage.reader("a", 98) as reader:
            assert reader.read() == bytes([98, 99])
        with storage.reader("a", 100, 0) as reader:
            assert reader.read() == b""

    def test_readinto_is_short_only_at_the_end(self, storage: Storage) -> None:
        storage.create("a", bytes(range(250)) * 4000)
        buffer = bytearray(600_000)
        with storage.reader("a") as reader:
            assert reader.readinto(buffer) == 600_000
            assert buffer == (bytes(range(250)) * 4000)[:600_000]
            assert reader.readinto(memoryview(buffer)[:0]) == 0
            assert reader.readinto(buffer) == 400_000
            assert buffer[:400_000] == (bytes(range(250)) * 4000)[600_000:]
            assert reader.readinto(buffer) == 0

    @pytest.mark.parametrize(("offset", "length"), [(0, 11), (10, 1), (11, None), (11, 0), (5, 6)])
    def test_a_range_past_the_end_is_damage(
        self, storage: Storage, offset: int, length: int | None
    ) -> None:
        storage.create("a", bytes(10))
        with (
            pytest.raises(CorruptData, match="is truncated"),
            storage.reader("a", offset, length) as reader,
        ):
            reader.read()

    def test_a_missing_object_is_not_found(self, storage: Storage) -> None:
        storage.create("a/b", b"x")
        for name in ["b", "a", "a/c", "c/d"]:
            with pytest.raises(NotFound, match="no such object"):
                storage.stat(name)
            with pytest.raises(NotFound, match="no such object"):
                storage.read(name)
            with pytest.raises(NotFound, match="no such object"):
                storage.sync(name)
            assert not storage.exists(name)

    def test_reading_a_storage_nobody_wrote_to_finds_nothing(self, storage: Storage) -> None:
        with pytest.raises(NotFound):
            storage.read("a")
        assert names(storage) == []
        storage.delete("a/b")
        assert not storage.is_locked("a")
        assert list(storage.reap()) == []

    def test_read_refuses_what_is_larger_than_its_limit(self, storage: Storage) -> None:
        storage.create("a", bytes(11))
        assert storage.read("a", limit=11) == bytes(11)
        with pytest.raises(CorruptData, match="implausibly large"):
            storage.read("a", limit=10)

    def test_list_is_recursive_and_sorted_by_whole_names(self, storage: Storage) -> None:
        stored = ["a/b/c", "a-b", "a.b", "a/b-", "a0", "B", "a/b/a", "a/b.x", "a/c"]
        for name in stored:
            storage.create(name, name.encode())
        assert names(storage) == sorted(stored)
        assert {found.name: found.size for found in storage.list()} == {
            name: len(name) for name in stored
        }

    def test_list_takes_a_folder_and_nothing_beside_it(self, storage: Storage) -> None:
        for name in ["a/b/c", "a/b2/c", "b/c"]:
            storage.create(name, b"")
        assert names(storage, "a/b/") == ["a/b/c"]
        assert names(storage, "a/") == ["a/b/c", "a/b2/c"]
        assert names(storage, "x/y/") == []
        with pytest.raises(UsageError, match='does not end with "/"'):
            names(storage, "a")

    def test_folders_are_those_directly_in_a_folder(self, storage: Storage) -> None:
        assert list(storage.folders()) == []
        for name in ["a/b/c/d", "a-b/x", "a/b.x/c", "a/file", "file"]:
            storage.create(name, b"")
        assert list(storage.folders()) == ["a", "a-b"]
        assert list(storage.folders("a/")) == ["b", "b.x"]
        assert list(storage.folders("x/")) == []
        with pytest.raises(UsageError):
            storage.folders("../")

    def test_stat_tells_the_time_of_writing(self, storage: Storage) -> None:
        storage.create("a", b"x")
        assert storage.stat("a") == next(iter(storage.list()))
        assert storage.stat("a").modified > 1_700_000_000

    def test_delete_removes_one_object(self, storage: Storage) -> None:
        storage.create("a/b/c", b"x")
        storage.create("a/b/d", b"x")
        storage.delete("a/b/c")
        assert names(storage) == ["a/b/d"]

    def test_delete_removes_several_objects(self, storage: Storage) -> None:
        for name in ("a/b", "a/c", "a/d", "e/f"):
            storage.create(name, b"x")
        storage.delete("a/d", "e/f", "x/y", "a/b")
        assert names(storage) == ["a/c"]

    def test_delete_of_a_missing_object_succeeds(self, storage: Storage) -> None:
        storage.create("a/b", b"x")
        storage.delete("a/b")
        storage.delete("a/b")
        storage.delete("x/y/z")
        assert names(storage) == []

    def test_a_folder_that_became_empty_can_become_an_object(self, storage: Storage) -> None:
        storage.create("a/b/c", b"x")
        storage.delete("a/b/c")
        storage.create("a", b"y")
        assert names(storage) == ["a"]

    def test_sync_accepts_a_committed_object(self, storage: Storage) -> None:
        storage.create("a/b", b"x")
        storage.sync("a/b")
        assert storage.read("a/b") == b"x"

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_hostile_names_are_refused_everywhere(self, storage: Storage, name: str) -> None:
        calls: list[Callable[[str], object]] = [
            storage.writer,
            storage.reader,
            storage.stat,
            storage.delete,
            storage.sync,
            storage.lock,
            storage.lock_shared,
            storage.is_locked,
            storage.holder,
            storage.read,
            storage.exists,
        ]
        for call in calls:
            with pytest.raises(UsageError, match="not a relative name"):
                call(name)
        if name != "":
            with pytest.raises(UsageError):
                names(storage, name + "/")
        assert names(storage) == []

    def test_a_lock_excludes_and_says_who_holds_it(self, storage: Storage) -> None:
        with storage.lock("a/lock", {"command": "backup"}):
            assert storage.is_locked("a/lock")
            holder = storage.holder("a/lock")
            assert holder is not None
            assert (holder["command"], holder["pid"]) == ("backup", str(os.getpid()))
            assert holder["since"].startswith("20")
            with pytest.raises(Locked) as caught:
                storage.lock("a/lock")
            assert "process" in caught.value.message
            assert "(backup)" in caught.value.message
            assert " since 20" in caught.value.message
            assert "ps -p" in str(caught.value.hint)
            with storage.lock("a/other"):
                assert storage.is_locked("a/other")
        assert not storage.is_locked("a/lock")
        assert storage.holder("a/lock") is None

    def test_a_released_lock_can_be_taken_again(self, storage: Storage) -> None:
        first = storage.lock("a")
        first.release()
        with storage.lock("a"):
            first.release()
            assert storage.is_locked("a")

    def test_a_shared_lock_excludes_only_an_exclusive_one(self, storage: Storage) -> None:
        with storage.lock_shared("a/lock", {"command": "restore"}) as first:
            with storage.lock_shared("a/lock"):
                first.release()
                assert storage.is_locked("a/lock")
                with pytest.raises(Locked):
                    storage.lock("a/lock")
            assert not storage.is_locked("a/lock")
            with storage.lock("a/lock"), pytest.raises(Locked):
                storage.lock_shared("a/lock")
        with storage.lock_shared("a/lock", {"command": "restore"}):
            with pytest.raises(Locked, match=r"\(restore\)"):
                storage.lock("a/lock")
            assert names(storage) == []
        assert not storage.is_locked("a/lock")

    def test_a_lock_is_no_object(self, storage: Storage) -> None:
        with storage.lock("a/b"):
            assert names(storage) == []
            storage.create("a/b", b"object of the same name")
            assert storage.read("a/b") == b"object of the same name"
            storage.delete("a/b")
            assert storage.is_locked("a/b")

    def test_one_of_two_writers_of_a_name_wins(self, storage: Storage) -> None:
        barrier = Barrier(2)

        def write(name: str, data: bytes) -> bool:
            barrier.wait()
            try:
                put(storage, name, data)
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            for number in range(50):
                name = f"folder{number}/object"
                won = list(pool.map(write, [name] * 2, [b"0" * 1000, b"1" * 1000]))
                assert sorted(won) == [False, True]
                assert storage.read(name) == str(won.index(True)).encode() * 1000

    def test_writing_and_emptying_a_folder_at_once_lose_nothing(self, storage: Storage) -> None:
        def churn(who: int) -> None:
            for number in range(100):
                name = f"folder/{who}-{number}"
                storage.create(name, b"x")
                assert storage.read(name) == b"x"
                storage.delete(name)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(churn, range(2)))
        assert names(storage) == []

    def test_one_of_two_takers_of_a_lock_wins(self, storage: Storage) -> None:
        held = []

        def take(number: int) -> None:
            for _ in range(100):
                try:
                    with storage.lock("folder/lock"):
                        held.append(number)
                        assert held == [number]
                        held.remove(number)
                except Locked:
                    continue

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(take, range(2)))
        assert not storage.is_locked("folder/lock")

    def test_leaving_the_block_closes(self, storage: Storage) -> None:
        with storage as same:
            assert same is storage
