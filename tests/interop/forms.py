"""Which forms of a base backup stock clients are asked for: few, with every pair of options."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.binaries import CLIENT_MAJORS

FORMATS = ("plain", "tar")
COMPRESSIONS = (
    "none", "client-gzip:1", "client-lz4", "client-zstd:1",
    "server-gzip:1", "server-lz4:3", "server-zstd:1",
)  # fmt: skip
WAL_METHODS = ("none", "fetch", "stream")
MANIFESTS = ("", "no", "NONE", "CRC32C", "SHA224", "SHA256", "SHA384", "SHA512", "encoded")
GZIP_ONLY = (18,)
"""Clients that are built without LZ4 and zstd."""


class Form(NamedTuple):
    """One call of pg_basebackup.

    follows:  with -R; and a slot, if WAL is streamed.
    manifest: "", "no", "encoded" or the algorithm of its checksums.
    """

    server: int
    client: int
    format: str
    compression: str
    wal: str
    follows: bool
    manifest: str = ""
    is_slow: bool = False
    has_progress: bool = False

    @property
    def is_possible(self) -> bool:
        """Whether the client does that at all."""
        side, _, method = self.compression.partition("-")
        if side == "client":
            return self.format == "tar" and (method.startswith("gzip") or not self._is_gzip_only)
        if side == "server":
            if self.format == "plain":
                return self.server >= 15 and (method.startswith("gzip") or not self._is_gzip_only)
            return self.server >= 15 and not self.follows
        return True

    def words(self) -> list[str]:
        """Options of pg_basebackup, but for places and slots."""
        words = [f"-F{self.format[0]}", "-X", self.wal, "--no-sync"]
        words += [] if self.compression == "none" else [f"--compress={self.compression}"]
        words += ["-R"] if self.follows else []
        words += ["-r", "200M"] if self.is_slow else []
        words += ["-P"] if self.has_progress else []
        if self.manifest == "no":
            words.append("--no-manifest")
        elif self.manifest == "encoded":
            words.append("--manifest-force-encode")
        elif self.manifest:
            words.append(f"--manifest-checksums={self.manifest}")
        return words

    @property
    def _is_gzip_only(self) -> bool:
        return self.client in GZIP_ONLY

    def pairs(self, names: Iterable[str]) -> set[tuple[tuple[str, object], ...]]:
        values = [(name, getattr(self, name)) for name in names]
        return set(itertools.combinations(values, 2))


def short_forms(servers: Sequence[int]) -> list[Form]:
    """All pairs of options, spread over the servers and the clients that accept them."""
    return finished(covering(possible(servers), ("format", "compression", "wal", "follows")))


def long_forms(servers: Sequence[int]) -> list[Form]:
    """All pairs of options for each server, and each with every client."""
    names = ("client", "format", "compression", "wal", "follows")
    found = [covering(possible([server]), names) for server in servers]
    return finished(list(itertools.chain.from_iterable(found)))


def possible(servers: Sequence[int]) -> list[Form]:
    majors = [(server, client) for server in servers for client in CLIENT_MAJORS]
    made = itertools.product(
        [each for each in majors if each[0] <= each[1]],
        FORMATS, COMPRESSIONS, WAL_METHODS, (False, True),
    )  # fmt: skip
    return [form for pair, *rest in made if (form := Form(*pair, *rest)).is_possible]


def covering(forms: list[Form], names: Sequence[str]) -> list[Form]:
    """Few of the forms, in which every pair of values that any of them has comes up."""
    pairs = {form: form.pairs(names) for form in forms}
    missing = set().union(*pairs.values())
    used: Counter[object] = Counter()
    chosen = []
    while missing:
        best = max(
            forms,
            key=lambda form: (len(pairs[form] & missing), -used[form.server], -used[form[:2]]),
        )
        chosen.append(best)
        missing -= pairs[best]
        used.update((best.server, best[:2]))
    return chosen


def finished(forms: list[Form]) -> list[Form]:
    """Give the forms the options that depend on nothing, each value in its turn."""
    return [
        form._replace(
            manifest=MANIFESTS[number % len(MANIFESTS)],
            is_slow=number % 3 == 0,
            has_progress=number % 2 == 0,
        )
        for number, form in enumerate(forms)
    ]
