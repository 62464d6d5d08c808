"""What retention has to keep, found the long way: every restore that must stay possible is walked.

Independent of the code under test: timelines are a tree of numbers, WAL is a set of (timeline,
segment), and each restore walks from segment to segment. Slow and plain on purpose.
"""

from dataclasses import dataclass, field
from itertools import pairwise

DAY = 86400


@dataclass
class Line:
    """A timeline: where it left its parent, in bytes, and the segments of which there is a file."""

    number: int
    parent: int | None
    fork: int
    has_history: bool = True
    arrived: dict[int, float] = field(default_factory=dict)
    partial: int | None = None
    partial_arrived: float = 0.0


@dataclass
class Backup:
    """A backup; start and stop in bytes, finished in seconds since the beginning of time."""

    label: str
    line: int
    start: int
    stop: int
    began: float
    finished: float
    sound: bool = True
    pinned: bool = False
    in_use: bool = False
    damaged: bool = False


@dataclass
class World:
    """Everything there is."""

    segment: int
    now: float
    lines: dict[int, Line]
    backups: list[Backup]
    slots: list[tuple[int, int]]
    running: list[float]


@dataclass
class Wish:
    """The policy. tiers: (periods, seconds of a period's key function's name)."""

    keep_full: int | None = None
    keep_days: int | None = None
    days: int | None = None
    weeks: int | None = None
    pitr_days: int | None = None


def ancestry(world: World, number: int) -> list[tuple[int, int, int | None]]:
    """(timeline, from, to) of all that counts on the way to a timeline, newest first.

    A line without a history file stands alone.
    """
    way: list[tuple[int, int, int | None]] = []
    line, end = world.lines[number], None
    while True:
        known = line.parent is not None and (line.number == number) <= line.has_history
        begin = line.fork if known else 0
        if end is not None:
            begin = min(begin, end)
        way.append((line.number, begin, end))
        if not known or line.parent is None:
            return way
        line, end = world.lines[line.parent], begin


def leads_through(world: World, number: int, line: int, position: int) -> bool:
    """Can recovery along a timeline pass through a position of another?"""
    return any(
        name == line and begin <= position and (end is None or position <= end)
        for name, begin, end in ancestry(world, number)
    )


def restorable(world: World, backup: Backup, number: int) -> bool:
    return leads_through(world, number, backup.line, backup.start) and leads_through(
        world, number, backup.line, backup.stop
    )


def walk(world: World, backup_start: int, number: int) -> set[tuple[int, int]]:
    """Segments that hold a byte which a recovery from a position along a timeline reads."""
    found = set()
    for name, begin, end in ancestry(world, number):
        for segment in segments_of(world, name):
            first, last = segment * world.segment, (segment + 1) * world.segment
            first, last = max(first, backup_start, begin), last if end is None else min(last, end)
            if first < last:
                found.add((name, segment))
    return found


def segments_of(world: World, number: int) -> set[int]:
    line = world.lines[number]
    return set(line.arrived) | ({line.partial} if line.partial is not None else set())


def kept_backups(world: World, wish: Wish) -> tuple[set[str], set[str]]:
    """Labels that stay, and those of them after which WAL stays."""
    good = [each for each in world.backups if not each.damaged]
    sound = [each for each in good if each.sound]
    stays: set[str] = set()
    with_wal: set[str] = set()
    for candidates in (good, sound):
        if candidates:
            stays.add(candidates[-1].label)
            with_wal.add(candidates[-1].label)
    counted: set[str] = set()
    if wish.keep_full is not None:
        for pool in (good, sound):
            for index, each in enumerate(pool):
                if len(pool) - index <= wish.keep_full:
                    counted.add(each.label)
    if wish.keep_days is not None:
        counted |= {b.label for b in good if b.finished >= world.now - wish.keep_days * DAY}
    stays |= counted
    if wish.pitr_days is None:
        with_wal |= counted
    for count, length in ((wish.days, DAY), (wish.weeks, 7 * DAY)):
        if count is None:
            continue
        pool = sound or good
        # The first of January 1970 was a Thursday, weeks begin on Monday.
        offset = 3 * DAY if length == 7 * DAY else 0
        periods = sorted({(b.began + offset) // length for b in pool}, reverse=True)[:count]
        for period in periods:
            stays.add([b for b in pool if (b.began + offset) // length == period][-1].label)
    if wish.pitr_days is not None:
        begin = world.now - wish.pitr_days * DAY
        inside = {b.label for b in good if b.finished >= begin}
        stays |= inside
        with_wal |= inside
        for number in world.lines:
            if is_alive(world, number, begin, good):
                base = base_of(world, number, begin, sound) or base_of(world, number, begin, good)
                if base is not None:
                    stays.add(base.label)
                    with_wal.add(base.label)
    for each in good:
        if each.pinned:
            stays.add(each.label)
        if each.in_use and each.label not in stays:
            stays.add(each.label)
            with_wal.add(each.label)
    return stays, with_wal


def is_alive(world: World, number: int, begin: float, good: list[Backup]) -> bool:
    line = world.lines[number]
    times = [*line.arrived.values(), *(b.finished for b in good if b.line == number)]
    if line.partial is not None:
        times.append(line.partial_arrived)
    return any(time >= begin for time in times)


def base_of(world: World, number: int, begin: float, pool: list[Backup]) -> Backup | None:
    way = [each for each in pool if restorable(world, each, number)]
    early = [each for each in way if each.finished <= begin]
    if early:
        return max(early, key=lambda each: (each.stop, each.label))
    return min(way, key=lambda each: (each.start, each.label)) if way else None


def needed_wal(world: World, stays: set[str], with_wal: set[str]) -> set[tuple[int, int]]:
    """(timeline, segment) of everything that must stay; a .partial is named by its segment."""
    needed: set[tuple[int, int]] = set()
    for each in world.backups:
        if each.damaged:
            needed |= since(world, each.began)
        elif each.label in stays:
            last = (each.stop - 1) // world.segment
            needed |= {(each.line, n) for n in range(each.start // world.segment, last + 1)}
            if each.label in with_wal:
                for number in world.lines:
                    if restorable(world, each, number):
                        needed |= walk(world, each.start, number)
    for line, position in world.slots:
        for number in world.lines:
            if leads_through(world, number, line, position):
                needed |= walk(world, position, number)
    for began in world.running:
        needed |= since(world, began)
    for number, line_ in world.lines.items():
        whole = line_.parent is not None and not line_.has_history
        if whole or not stays:
            needed |= {(number, n) for n in segments_of(world, number)}
        if line_.partial is not None and line_.partial >= max(line_.arrived, default=0):
            needed.add((number, line_.partial))
    return needed


def since(world: World, began: float) -> set[tuple[int, int]]:
    """From the newest full segment before a time on: what may be read by who began then."""
    found = set()
    for number, line in world.lines.items():
        order = sorted(line.arrived)
        if not order:
            continue
        first = order[-1]
        for before, after in pairwise(order):
            if line.arrived[after] >= began:
                first = before
                break
        found |= {(number, n) for n in segments_of(world, number) if n >= first}
    return found


def needed_histories(world: World, stays: set[str], needed: set[tuple[int, int]]) -> set[int]:
    """Timelines whose history file must stay."""
    files = {(n, s) for n in world.lines for s in segments_of(world, n)}
    kept = {number for number, _ in needed & files}
    kept |= {each.line for each in world.backups if each.label in stays and not each.damaged}
    kept |= {line for line, _ in world.slots}
    named = {name for number in kept for name, _, _ in ancestry(world, number)}
    return {n for n in world.lines if n in named or not kept or n > min(kept)}
