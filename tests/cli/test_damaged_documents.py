"""Whatever becomes of a small document of a repository, every verb says it in one sentence."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.repo.coverage import Stretch
from pgbackup.repo.knownholes import KnownHole, put_known_holes
from pgbackup.repo.slots import Slot, put_slot
from pgbackup.storage.local import LocalStorage
from tests.backup.sample import LABEL, SYSTEM, sample
from tests.backup.wal import MIB
from tests.cli.batch import Case, run_all
from tests.repo.samples import NOON

pytestmark = pytest.mark.slow

OK, CRITICAL, DAMAGED, WARNINGS = 0, 1, 7, 10
REPO = "pgbackup-repo"
DEPTH = 2000  # twice what Python's recursion stands, within the limit of the smallest document
DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "other-type": lambda data: b"[]",
    "deep": lambda data: b"[" * DEPTH,
    "long-number": lambda data: b'{"format": %s}' % (b"9" * 4000),
    "no-number": lambda data: b'{"format": NaN, "users": [NaN]}',
    "half-a-character": lambda data: rb'{"format": 1, "reason": "\ud800", "secret": "\ud800"}',
    "no-text": lambda data: b"\xff\xfe" + data,
}


FOR_ALL = ("empty", "half-a-character")
"""Tried with every verb that reads a document, the others with one."""


class Reader(NamedTuple):
    """A verb that reads a document. hint: what it says besides that it is damaged."""

    words: str
    status: int
    hint: str = ""


CHECK = "check --no-server"
CLUSTER, BACKUP = str(SYSTEM), f"{SYSTEM}/backups/{LABEL}"
READERS = {
    "pgbackup.json": [Reader("list", DAMAGED), Reader(CHECK, CRITICAL)],
    f"{CLUSTER}/cluster.json": [
        Reader("wal list", DAMAGED),
        Reader("expire --keep-full 1", DAMAGED),
    ],
    f"{BACKUP}/backup.json": [
        Reader("show", DAMAGED),
        Reader("list", WARNINGS),
        Reader("status", WARNINGS),
        Reader("expire --keep-full 1", WARNINGS),
        Reader(CHECK, CRITICAL),
    ],
    f"{BACKUP}/pin.json": [Reader("list", OK), Reader("pin latest --reason again", OK)],
    f"{CLUSTER}/slots/follower.json": [
        Reader("expire --keep-full 1", DAMAGED, "pgbackup slot drop follower -B"),
        Reader(CHECK, CRITICAL, "pgbackup slot drop follower -B"),
        Reader(f"slot drop follower -B {REPO}", OK),
    ],
    "serve-users.json": [
        Reader("serve-user list", DAMAGED),
        Reader("serve-user add more --no-password", DAMAGED),
        Reader(CHECK, CRITICAL, "pgbackup serve-user add"),
    ],
    f"{CLUSTER}/wal-holes.json": [Reader("wal gaps", DAMAGED, "type: rm ")],
    f"{CLUSTER}/cron.json": [Reader(CHECK, WARNINGS), Reader("cron --no-server", OK)],
    f"{CLUSTER}/wal-verified.json": [Reader("wal verify", OK)],
    f"{CLUSTER}/backups-verified.json": [Reader("verify", OK)],
}
"""Each document, and what becomes of the verbs that read it; aids are made again."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose default repository has every document."""
    place = tmp_path_factory.mktemp("whole")
    cluster = sample().put(LocalStorage(place / REPO))
    put_slot(cluster, Slot("follower", False, WalPosition(Timeline(1), Lsn(2 * MIB))))
    first = Segment(Timeline(1), 1, MIB)
    put_known_holes(cluster, [KnownHole(Stretch(first, first), "it was removed", NOON, True)])
    made = ("pin latest", "cron --no-server", "serve-user add somebody --no-password")
    for answer in run_all(place, [(place, words.split()) for words in made]):
        assert answer.status == OK, answer.err
    assert all((place / REPO / name).is_file() for name in READERS)
    return place


def cases(whole: Path, scratch: Path, name: str) -> Iterator[tuple[str, Reader, Case]]:
    for damage, spoil in DAMAGES.items():
        readers = READERS[name] if damage in FOR_ALL else READERS[name][:1]
        for number, reader in enumerate(readers):
            place = scratch / f"{damage}{number}"
            shutil.copytree(whole, place)
            document = place / REPO / name
            document.write_bytes(spoil(document.read_bytes()))
            yield damage, reader, (place, reader.words.split())


@pytest.mark.parametrize("name", READERS, ids=lambda name: Path(name).name)
def test_a_damaged_document_is_told_or_made_again(whole: Path, tmp_path: Path, name: str) -> None:
    tried = list(cases(whole, tmp_path, name))
    answers = run_all(tmp_path, [case for _, _, case in tried])
    for (damage, reader, _), answer in zip(tried, answers, strict=True):
        said = answer.err + answer.out.decode()
        assert answer.status == reader.status, f"{damage}, {reader.words}: {said}"
        assert reader.hint in said, f"{damage}, {reader.words}: {said}"
        if answer.status == DAMAGED:
            assert Path(name).name in answer.error()[0]


def test_the_error_of_a_damaged_document_is_a_document(whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(whole, place)
    (place / REPO / "pgbackup.json").write_bytes(b"")
    (answer,) = run_all(tmp_path, [(place, ["list", "--json"])])
    assert (answer.out, json.loads(answer.err)["code"]) == (b"", DAMAGED)
