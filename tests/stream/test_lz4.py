"""A link that makes each archive one lz4 frame."""

import lz4.frame

from pgbackup.stream.lz4 import Lz4
from pgbackup.stream.sink import Sink
from tests.stream.link_contract import LinkContract


class TestLz4(LinkContract):
    def link(self, successor: Sink) -> Sink:
        return Lz4(successor)

    def restored(self, stored: dict[str, bytes]) -> dict[str, bytes]:
        return {
            name.removesuffix(".lz4"): lz4.frame.decompress(data) for name, data in stored.items()
        }
