"""What a client of our walsender does, in the columns of pg_stat_replication.

Source: walsender_private.h, WalSnd; walsender.c, pg_stat_get_wal_senders (PostgreSQL 18).
"""

from enum import Enum
from typing import NamedTuple

from pgbackup.pg.lsn import Lsn, Timeline

MAX_NAME = 63  # bytes of names


class ClientState(Enum):
    """The column state."""

    STARTUP = "startup"
    BACKUP = "backup"
    CATCHUP = "catchup"
    STREAMING = "streaming"
    STOPPING = "stopping"


class ClientStatus(NamedTuple):
    """One client at one moment.

    client_addr, client_port: None on a Unix socket.
    backend_start, reply_time: microseconds since 1970-01-01 UTC, the latter by the client's clock.
    timeline:   that is sent, or was sent last.
    positions:  0 is not known.
    lags:       microseconds, None if not known.
    """

    pid: int
    usename: str
    application_name: str
    client_addr: str | None
    client_port: int | None
    backend_start: int
    state: ClientState = ClientState.STARTUP
    timeline: Timeline | None = None
    sent_lsn: Lsn = Lsn(0)
    write_lsn: Lsn = Lsn(0)
    flush_lsn: Lsn = Lsn(0)
    replay_lsn: Lsn = Lsn(0)
    write_lag: int | None = None
    flush_lag: int | None = None
    replay_lag: int | None = None
    reply_time: int | None = None

    @property
    def is_streaming(self) -> bool:
        """Whether it may count as a synchronous standby."""
        return self.state in (ClientState.STREAMING, ClientState.STOPPING)


def clean_name(name: str) -> str:
    """An application name as a server keeps it: short, printable ASCII."""
    short = name.encode("utf-8", "surrogateescape")[:MAX_NAME]
    return "".join(chr(byte) if 32 <= byte <= 126 else "?" for byte in short)
