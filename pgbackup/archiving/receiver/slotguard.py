"""Watches the slot that keeps WAL for the receiver.

Asked on each connect and at intervals while receiving. Each change for better or worse is told
once. What must end the receiving, a lost slot or one over its cap, is for the receiver to act on.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

from pgbackup.errors import ConnectionFailed, NotFound, ProtocolViolation, ServerError
from pgbackup.replication.slotstate import SlotState, WalStatus

_SENTENCES = {
    WalStatus.EXTENDED: "the server keeps more than max_wal_size of WAL for it; look at what holds"
    " the receiver up, and limit what a slot may keep with max_slot_wal_keep_size",
    WalStatus.UNRESERVED: "it is over max_slot_wal_keep_size, and a checkpoint may remove WAL that"
    " is not received yet; raise that setting until the receiver has caught up",
    WalStatus.LOST: "the server has removed WAL that was not received",
}


class SlotCap(NamedTuple):
    """How much WAL a slot may retain.

    size:     bytes.
    releases: what is over the cap ends the slot; otherwise it is only told.
    """

    size: int
    releases: bool = False


class SlotGuard:
    """What is known of the slot, as of the last look.

    look: reads the state from the server.
    tell: is given sentences for people.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], SlotState],
        cap: SlotCap | None,
        tell: Callable[[str], None],
        *,
        tells_blindness: bool = True,
    ) -> None:
        """tells_blindness: that nothing can be known is worth a sentence even without a cap."""
        self._name = name
        self._look = look
        self._cap = cap
        self._tell = tell
        self._tells_blindness = tells_blindness or cap is not None
        self._turn = threading.Lock()
        self._told: WalStatus | None = None
        self._is_over_told = False
        self._is_blind_told = False
        self.is_lost = False
        self.retained = 0

    @property
    def must_release(self) -> bool:
        """Whether the slot is over a cap that ends it."""
        cap = self._cap
        return cap is not None and cap.releases and self.retained > cap.size

    @property
    def must_stop(self) -> bool:
        """Whether receiving with this slot must not go on."""
        return self.is_lost or self.must_release

    def look(self) -> None:
        """Learn the state, and tell what has changed; one thread after the other."""
        with self._turn:
            self._look_once()

    def _look_once(self) -> None:
        try:
            state = self._look()
        except NotFound:
            return  # the receiver says so, when it starts to stream
        except (ConnectionFailed, ServerError, ProtocolViolation) as error:
            if self._tells_blindness and not self._is_blind_told:
                self._tell(f'warning: slot "{self._name}" is not watched: {error.message}')
                self._is_blind_told = True
            return
        self._is_blind_told = False
        self.is_lost = state.is_lost
        self.retained = state.retained
        self._tell_status(state.status)
        self._tell_cap()

    def _tell_status(self, status: WalStatus | None) -> None:
        if status is self._told:
            return
        if status in _SENTENCES:
            self._tell(f'warning: slot "{self._name}" is {status}: {_SENTENCES[status]}')
        elif self._told in _SENTENCES:
            self._tell(f'slot "{self._name}" is {status or "unused"} again')
        self._told = status

    def _tell_cap(self) -> None:
        is_over = self._cap is not None and self.retained > self._cap.size
        if self._cap is not None and is_over and not self._is_over_told:
            self._tell(
                f'warning: slot "{self._name}" retains {megabytes(self.retained)} of WAL on the'
                f" server, over its cap of {megabytes(self._cap.size)}"
            )
        elif self._is_over_told and not is_over:
            self._tell(f'slot "{self._name}" is within its cap again')
        self._is_over_told = is_over


def megabytes(size: int) -> str:
    """Bytes, as a DBA reads them."""
    return f"{size / (1 << 20):.0f} MB"
