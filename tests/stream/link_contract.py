"""What every link of the chain promises. A link's test is a subclass with a `link` method."""

import random
import threading

import pytest

from pgbackup.errors import StorageError
from pgbackup.stream.sink import Sink, feed
from tests.stream.checked_sink import STOP, CheckedSink, backup_state, send
from tests.stream.tars import archive

ARCHIVES = {"16384.tar": archive((("1", b"one"), ("2", b""))), "base.tar": archive()}
MANIFEST = b'{ "PostgreSQL-Backup-Manifest-Version": 1 }\n' * 99


class LinkContract:
    """Always: the link made is given valid tar archives."""

    EMPTY_ARCHIVE = b""

    def link(self, successor: Sink) -> Sink:
        raise NotImplementedError

    def restored(self, stored: dict[str, bytes]) -> dict[str, bytes]:
        """The plain archives, from what came out of the link."""
        return stored

    @pytest.mark.parametrize("seed", range(8))
    def test_everything_arrives_whatever_the_pieces(self, seed: int) -> None:
        chance = random.Random(seed)
        end = CheckedSink([chance.randint(1, 9000) for _ in range(7)])
        send(self.link(end), ARCHIVES, MANIFEST, pieces=[chance.randint(1, 3000) for _ in range(5)])
        assert end.is_complete
        assert end.is_clean
        assert self.restored(end.archives) == ARCHIVES
        assert end.manifest == MANIFEST
        assert end.stop == STOP

    @pytest.mark.parametrize("seed", range(4))
    def test_deferred_contents_arrive_whatever_the_pieces(self, seed: int) -> None:
        chance = random.Random(seed)
        end = CheckedSink([chance.randint(1, 9000) for _ in range(7)])
        pieces = [chance.randint(1, 3000) for _ in range(5)]
        send(self.link(end), ARCHIVES, MANIFEST, pieces=pieces, is_deferred=True)
        assert end.is_complete
        assert self.restored(end.archives) == ARCHIVES

    def test_an_archive_can_be_flushed_anywhere(self) -> None:
        end = CheckedSink([700])
        link = self.link(end)
        link.begin_backup(backup_state())
        link.begin_archive("base.tar")
        link.flush()
        feed(link, memoryview(ARCHIVES["base.tar"])[:512])
        link.flush()
        link.flush()
        feed(link, memoryview(ARCHIVES["base.tar"])[512:])
        link.flush()
        link.end_archive()
        link.cleanup()
        (content,) = self.restored(end.archives).values()
        assert content == ARCHIVES["base.tar"]

    def test_a_backup_needs_no_manifest(self) -> None:
        end = CheckedSink()
        send(self.link(end), ARCHIVES)
        assert end.is_complete
        assert end.manifest is None

    def test_empty_objects_are_handed_on(self) -> None:
        end = CheckedSink()
        send(self.link(end), {"base.tar": self.EMPTY_ARCHIVE}, b"")
        assert self.restored(end.archives) == {"base.tar": self.EMPTY_ARCHIVE}
        assert end.manifest == b""

    def test_the_state_is_shared_not_copied(self) -> None:
        end = CheckedSink()
        link = self.link(end)
        state = backup_state()
        link.begin_backup(state)
        assert end.state is state
        link.cleanup()

    def test_every_failure_of_the_successor_comes_back_and_is_cleaned_up(self) -> None:
        whole = CheckedSink([3000])
        send(self.link(whole), ARCHIVES, MANIFEST, pieces=[1000])
        threads = threading.active_count()
        for number in range(len(whole.calls)):
            end = CheckedSink([3000], fail_at=number)
            with pytest.raises(StorageError, match="no space left"):
                send(self.link(end), ARCHIVES, MANIFEST, pieces=[1000])
            assert end.is_clean, f"not cleaned up after a failing {end.calls[-1]}"
        assert threading.active_count() == threads

    def test_cleanup_before_the_first_call_is_handed_on(self) -> None:
        end = CheckedSink()
        self.link(end).cleanup()
        assert end.is_clean
