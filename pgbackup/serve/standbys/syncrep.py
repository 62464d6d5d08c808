"""What standbys together have acknowledged, where synchronous_standby_names says who counts.

Pure: given all walsenders at one moment, in an order that does not change while they live.

Source: syncrep.c, SyncRepGetCandidateStandbys and SyncRepGetSyncRecPtr; walsender.c,
pg_stat_get_wal_senders (PostgreSQL 18).
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from pgbackup.pg.lsn import Lsn
from pgbackup.serve.standbys.standbynames import Method, StandbyNames


class Acknowledged(NamedTuple):
    """Positions that a standby, or enough of them, have told of."""

    write: Lsn
    flush: Lsn
    apply: Lsn


class Standby(NamedTuple):
    """A client that receives WAL.

    priority:     of StandbyNames.priority.
    is_streaming: it has caught up once; also while the server ends.
    acknowledged: zero for what the client has not told of.
    """

    priority: int
    is_streaming: bool
    acknowledged: Acknowledged


class SyncState(Enum):
    """A column of pg_stat_replication."""

    ASYNC = "async"
    POTENTIAL = "potential"
    SYNC = "sync"
    QUORUM = "quorum"


def synchronous_position(names: StandbyNames, standbys: Sequence[Standby]) -> Acknowledged | None:
    """Up to where enough standbys have all WAL; None while there are not enough of them."""
    chosen = [standbys[index].acknowledged for index in candidates(names, standbys)]
    if len(chosen) < names.number:
        return None
    place = len(chosen) - 1 if names.method is Method.PRIORITY else names.number - 1
    return Acknowledged(*(sorted(each, reverse=True)[place] for each in zip(*chosen, strict=True)))


def candidates(names: StandbyNames, standbys: Sequence[Standby]) -> list[int]:
    """Indexes of the standbys that count: the first by priority, or all where any will do."""
    usable = [
        index
        for index, each in enumerate(standbys)
        if each.priority and each.is_streaming and each.acknowledged.flush
    ]
    if names.method is Method.QUORUM:
        return usable
    usable.sort(key=lambda index: standbys[index].priority)
    return usable[: names.number]


def sync_states(
    names: StandbyNames | None, standbys: Sequence[Standby]
) -> list[tuple[SyncState, int]]:
    """State and priority of every standby, as pg_stat_replication has them."""
    chosen = [] if names is None else candidates(names, standbys)
    of_chosen = SyncState.QUORUM if names and names.method is Method.QUORUM else SyncState.SYNC
    states = []
    for index, each in enumerate(standbys):
        priority = each.priority if each.acknowledged.flush else 0
        state = SyncState.ASYNC if priority == 0 else SyncState.POTENTIAL
        states.append((of_chosen if index in chosen else state, priority))
    return states
