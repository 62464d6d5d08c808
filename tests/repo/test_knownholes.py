"""What receivers recorded of holes is kept, and only widened by who knows better."""

from datetime import UTC, datetime

import pytest

from pgbackup.errors import CorruptData
from pgbackup.pg.lsn import Segment, Timeline
from pgbackup.repo import layout
from pgbackup.repo.coverage import Stretch
from pgbackup.repo.knownholes import KnownHole, put_known_holes, read_known_holes
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.storage.memory import MemoryStorage

MIB = 1 << 20
FOUND = datetime(2026, 11, 22, 20, 30, tzinfo=UTC)


def hole(first: int, last: int, *, timeline: int = 1, is_accepted: bool = False) -> KnownHole:
    def segment(number: int) -> Segment:
        return Segment(Timeline(timeline), number, MIB)

    stretch = Stretch(segment(first), segment(last))
    return KnownHole(stretch, 'slot "own" was lost', FOUND, is_accepted)


@pytest.fixture
def cluster() -> ClusterRepository:
    return Repository.open(MemoryStorage(), create=True).cluster(7)


def test_holes_are_read_as_they_were_recorded(cluster: ClusterRepository) -> None:
    assert read_known_holes(cluster, MIB) == []
    put_known_holes(cluster, [])
    assert read_known_holes(cluster, MIB) == []
    put_known_holes(cluster, [hole(3, 5), hole(5, 9, timeline=2)])
    put_known_holes(cluster, [hole(20, 20)])
    assert read_known_holes(cluster, MIB) == [hole(3, 5), hole(5, 9, timeline=2), hole(20, 20)]


def test_a_hole_takes_the_place_of_those_that_begin_in_it(cluster: ClusterRepository) -> None:
    put_known_holes(cluster, [hole(3, 5), hole(8, 8), hole(3, 3, timeline=2)])
    put_known_holes(cluster, [hole(3, 8, is_accepted=True)])
    assert read_known_holes(cluster, MIB) == [hole(3, 3, timeline=2), hole(3, 8, is_accepted=True)]


@pytest.mark.parametrize(
    "document",
    [b"[]", b"{}", b'{"format": 2, "holes": []}', b'{"format": 1, "holes": [{"first": "x"}]}'],
)
def test_another_document_in_its_place_is_damage(
    cluster: ClusterRepository, document: bytes
) -> None:
    cluster.storage.create(layout.wal_holes_object(7), document)
    with pytest.raises(CorruptData):
        read_known_holes(cluster, MIB)
