"""Who waits at the end of WAL is woken by what comes, and by nothing else."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pgbackup.serve.wal import walnews
from pgbackup.serve.wal.walnews import WalNews
from tests.repo.samples import MIB
from tests.serve.wal.test_walstream import Scene

LONG = 60.0


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """An archive with one segment; whoever is not woken waits too long for the tests below."""
    monkeypatch.setattr(walnews, "PATIENCE", LONG)
    with closing(Scene(tmp_path / "repo")) as made:
        made.put(3)
        yield made


class Waiting:
    """Threads that wait for one piece of news."""

    def __init__(self, news: WalNews, count: int = 5) -> None:
        self.over = threading.Event()
        number = news.number
        self._threads = [
            threading.Thread(target=news.wait, args=(number, self.over), daemon=True)
            for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        for thread in self._threads:
            thread.join(LONG / 2)
            assert not thread.is_alive()


def settled(news: WalNews) -> None:
    """The first look of all is news itself."""
    Waiting(news).end()


@pytest.mark.parametrize(
    "happen",
    [
        lambda scene: scene.publish(4 * MIB + 8192),
        lambda scene: scene.put(4),
        lambda scene: scene.history(2, (1, 4 * MIB)),
    ],
    ids=["receiver", "segment", "timeline"],
)
def test_what_another_process_adds_wakes_all(scene: Scene, happen: Callable[[Scene], None]) -> None:
    with WalNews(scene.cluster) as news:
        settled(news)
        waiting = Waiting(news)
        happen(scene)
        waiting.end()


def test_a_receiver_behind_the_end_is_noticed(scene: Scene) -> None:
    scene.put(9)
    scene.publish(4 * MIB)
    with WalNews(scene.cluster) as news:
        settled(news)
        waiting = Waiting(news)
        scene.publish(4 * MIB + 8192)
        waiting.end()


def test_what_is_announced_wakes_all(scene: Scene) -> None:
    news = WalNews(scene.cluster, is_fed=True)
    waiting = Waiting(news)
    number = news.announce()
    waiting.end()
    assert number == news.number
    news.wait(number - 1, waiting.over)


def test_one_whose_stream_ends_is_let_go(scene: Scene) -> None:
    news = WalNews(scene.cluster)
    waiting = Waiting(news)
    waiting.over.set()
    news.wake()
    waiting.end()


def test_damage_is_for_everybody_to_see(scene: Scene) -> None:
    with WalNews(scene.cluster) as news:
        settled(news)
        scene.publish(4 * MIB)
        settled(news)
        (path,) = scene.path.rglob("*.positions")
        waiting = Waiting(news)
        path.with_suffix(".new").write_bytes(b"no positions")
        path.with_suffix(".new").rename(path)
        waiting.end()
