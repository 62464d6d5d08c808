"""A package imports only packages above it, and dangerous calls stand in one place.

The rules are checked on the syntax tree, so that imports inside functions count too. Each rule is
also shown a breach: a checker that finds nothing would pass for ever.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent

RANKS = {
    "errors": 0,
    "interrupts": 0,
    "pg": 0,
    "wire": 1,
    "stream": 1,
    "storage": 1,
    "config": 1,
    "repo": 2,
    "replication": 3,
    "backup": 4,
    "archiving": 5,
    "restore": 5,
    "serve": 6,
    "care": 7,
    "cli": 8,
    "__main__": 9,
}
"""A package may import itself and every package of a lower rank, with these exceptions."""

ROOMS = {
    "repo": {"": 0, "moments": 1, "retention": 1},
    "archiving": {"": 0, "receiver": 1},
    "backup": {"": 0, "pgdata": 1, "verification": 1},
    "serve": {"entry": 0, "wal": 0, "standbys": 0, "basebackup": 1, "": 2, "pgdata": 3},
}
"""The same for the packages within a package; "" stands for the modules beside them."""

ALSO = {("pg", "errors")}
NEVER = {("replication", "repo")}
ONLY_FROM = {"config": {"cli", "__main__"}}

PSYCOPG_MODULES = {"pgbackup.replication.libpq"}
"""The modules that may import psycopg; one for ordinary SQL can be added here, no others."""

PACKERS = {"stream", "repo", "backup", "restore", "serve"}
LIBRARIES = {
    "zstandard": PACKERS,
    "crc32c": PACKERS,
    "lz4": {"stream"},
    "typer": {"cli"},
    "tqdm": {"cli"},
}
"""Which packages may import what is not of the standard library."""

DURABLE = "pgbackup.storage.durable"
DURABLE_CALLS = {"fsync", "fdatasync", "sync", "rename", "renames", "replace", "link"}
"""Functions of `os` that make names or contents durable, or bind a name."""

PATH_METHODS = {"rename", "hardlink_to"}
FILE_METHODS = {"open", "read_bytes", "read_text", "write_bytes", "write_text"}
NETWORK = {"socket", "ssl", "select", "selectors", "asyncio"}

Finding = Iterator[str]


def breaches(path: PurePosixPath, source: str) -> list[str]:
    """What a module does against the rules, one sentence each."""
    parts = path.with_suffix("").parts
    module = ".".join(parts).removesuffix(".__init__")
    package = parts[1] if len(parts) > 1 else ""
    if package == "__init__":
        package = ""
    elif package not in RANKS:
        return [f"{path}: package {package} has no rank"]
    elif len(parts) > 3 and parts[2] not in ROOMS.get(package, {}):
        return [f"{path}: package {package}/{parts[2]} has no rank"]
    return [
        f"{path}:{getattr(node, 'lineno', 0)}: {reason}"
        for node in ast.walk(ast.parse(source))
        for reason in (*imports(node, module, package), *calls(node, module, package))
    ]


def imports(node: ast.AST, module: str, package: str) -> Finding:
    for name in imported_names(node):
        top, _, rest = name.partition(".")
        if top == "pgbackup":
            yield from own_import(package, rest.partition(".")[0])
            yield from room_import(module, name)
        elif not top:
            yield "relative import"
        elif top == "psycopg":
            if module not in PSYCOPG_MODULES:
                yield "psycopg is imported outside the modules for it"
        elif top not in sys.stdlib_module_names:
            if package not in LIBRARIES.get(top, set()):
                yield f"{package} imports {top}, which is not of the standard library"
        elif package == "wire" and top in NETWORK:
            yield f"wire imports {top}: it is data, without sockets"


def imported_names(node: ast.AST) -> list[str]:
    """Full names of what a node imports; relative ones begin with a dot."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    if node.level:
        return ["." * node.level + (node.module or "")]
    if node.module == "pgbackup":
        return [f"pgbackup.{alias.name}" for alias in node.names]
    return [node.module or ""]


def own_import(package: str, wanted: str) -> Finding:
    if wanted not in RANKS:
        if wanted and not wanted.startswith("__"):
            yield f"imports {wanted}, which has no rank"
        return
    if not package or package == wanted or (package, wanted) in ALSO:
        if not package:
            yield f"pgbackup/__init__.py imports {wanted}"
        return
    if RANKS[wanted] >= RANKS[package] or (package, wanted) in NEVER:
        yield f"{package} imports {wanted}"
    elif package not in ONLY_FROM.get(wanted, {package}):
        yield f"{package} imports {wanted}, which is for {sorted(ONLY_FROM[wanted])}"


def room_import(module: str, name: str) -> Finding:
    """Between the packages within one; own_import looks after all others."""
    (package, room), (other, wanted) = room_of(module), room_of(name)
    if package not in ROOMS or package != other or room == wanted:
        return
    if ROOMS[package][wanted] >= ROOMS[package][room]:
        yield f"{package}/{room} imports {package}/{wanted}"


def room_of(module: str) -> tuple[str, str]:
    """The package of a module of ours, and which package within."""
    package, room = (*module.split("."), "", "")[1:3]
    return package, room if room in ROOMS.get(package, {}) else ""


def calls(node: ast.AST, module: str, package: str) -> Finding:
    if isinstance(node, ast.Global):
        yield "module-level state"
    if isinstance(node, ast.Attribute) and node.attr == "extractall":
        yield "extractall trusts the names in an archive"
    if module != DURABLE:
        yield from durable_calls(node)
    if not isinstance(node, ast.Call):
        return
    if any(k.arg == "shell" and not is_constant(k.value, False) for k in node.keywords):
        yield "a shell is started"
    if is_os(node.func, {"system", "popen"}):
        yield "a shell is started"
    if package == "pg" and opens_file(node.func):
        yield "pg opens a file: it is values, without input and output"


def durable_calls(node: ast.AST) -> Finding:
    if is_os(node, DURABLE_CALLS):
        yield f"os.{node.attr} outside storage/durable.py"  # type: ignore[attr-defined]
    elif isinstance(node, ast.ImportFrom) and node.module in ("os", "posix"):
        for alias in node.names:
            if alias.name in DURABLE_CALLS:
                yield f"os.{alias.name} outside storage/durable.py"
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        method, receiver = node.func.attr, ast.unparse(node.func.value)
        if method in PATH_METHODS and not receiver.lower().endswith("filesystem"):
            yield f"{receiver}.{method}() outside storage/durable.py"
        if method == "replace" and len(node.args) == 1 and not node.keywords:
            yield f"{receiver}.replace() of a path outside storage/durable.py"


def is_os(node: ast.AST, names: set[str]) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("os", "posix")
        and node.attr in names
    )


def opens_file(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id == "open"
    return isinstance(function, ast.Attribute) and function.attr in FILE_METHODS


def is_constant(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def modules() -> list[Path]:
    return sorted((ROOT / "pgbackup").rglob("*.py"))


def test_every_module_keeps_the_rules() -> None:
    found = [
        breach
        for path in modules()
        for breach in breaches(PurePosixPath(path.relative_to(ROOT)), path.read_text())
    ]
    assert found == []


def test_there_are_modules_to_check() -> None:
    packages = {path.relative_to(ROOT).parts[1] for path in modules()}
    assert {"errors.py", "pg", "wire", "stream", "storage", "replication", "backup"} <= packages


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("pg/lsn.py", "import pgbackup.wire.grammar"),
        ("errors.py", "from pgbackup.pg.lsn import Lsn"),
        ("stream/sink.py", "from pgbackup.storage.api import Storage"),
        ("wire/grammar.py", "from pgbackup.stream import sink"),
        ("storage/api.py", "from pgbackup import repo"),
        ("repo/record.py", "from pgbackup.replication.client import show"),
        ("replication/client.py", "from pgbackup.repo.archive import WalArchive"),
        ("backup/receive.py", "from pgbackup.restore.plan import Plan"),
        ("restore/plan.py", "import pgbackup.serve.handler"),
        ("restore/plan.py", "from pgbackup.cli import output"),
        ("serve/entry/tls.py", "from pgbackup.serve.wal.walnews import WalNews"),
        ("serve/entry/tls.py", "from pgbackup.serve.wal import walnews"),
        ("serve/basebackup/copyout.py", "from pgbackup.serve.handler import Handler"),
        ("backup/take.py", "from pgbackup.backup.verification.verify import verify_backup"),
        ("archiving/receive.py", "from pgbackup.care.status import read_status"),
        ("cli/app.py", "import pgbackup.__main__"),
        ("__init__.py", "from pgbackup import errors"),
        ("backup/receive.py", "from pgbackup.config import Config"),
        ("backup/receive.py", "import pgbackup.utils"),
        ("utils/strings.py", ""),
        ("serve/utils/strings.py", ""),
        ("pg/lsn.py", "def f():\n    from pgbackup.cli import app"),
        ("stream/sink.py", "from . import buffers"),
        ("stream/sink.py", "from .buffers import BufferPool"),
        ("pg/manifest.py", "import crc32c"),
        ("pg/manifest.py", "import zstandard as z"),
        ("storage/local.py", "import requests.sessions"),
        ("replication/client.py", "import psycopg"),
        ("backup/receive.py", "from psycopg import pq"),
        ("serve/handler.py", "import typer"),
        ("backup/receive.py", "import tqdm"),
        ("wire/session.py", "import socket"),
        ("wire/session.py", "from ssl import SSLContext"),
        ("pg/control.py", "data = open('x')"),
        ("pg/control.py", "data = path.read_bytes()"),
        ("pg/control.py", "fd = os.open('x', 0)"),
        ("storage/local.py", "os.fsync(fd)"),
        ("storage/local.py", "sync = os.fdatasync"),
        ("repo/archive.py", "from os import rename as move"),
        ("restore/extract.py", "os.replace(a, b)"),
        ("restore/extract.py", "os.link(a, b)"),
        ("restore/extract.py", "Path(a).replace(b)"),
        ("restore/extract.py", "path.rename(b)"),
        ("restore/extract.py", "path.hardlink_to(b)"),
        ("restore/extract.py", "tar.extractall()"),
        ("serve/handler.py", "subprocess.run('ls', shell=True)"),
        ("serve/handler.py", "subprocess.run('ls', shell=is_shell)"),
        ("serve/handler.py", "os.system('ls')"),
        ("repo/archive.py", "def f():\n    global state"),
    ],
)
def test_a_breach_is_found(path: str, source: str) -> None:
    assert len(breaches(PurePosixPath("pgbackup") / path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "__version__ = '1'"),
        ("pg/lsn.py", "import re\nfrom pgbackup.errors import CorruptData"),
        ("pg/history.py", "from pgbackup.pg.lsn import Lsn"),
        ("stream/sink.py", "from pgbackup.pg.lsn import Lsn\nfrom pgbackup.errors import Refused"),
        ("stream/compress.py", "import zstandard\nfrom crc32c import crc32c"),
        ("repo/archive.py", "from pgbackup.storage.api import Storage"),
        ("replication/libpq.py", "import psycopg\nfrom psycopg import pq"),
        ("backup/wal.py", "from pgbackup.repo.archive import WalArchive"),
        ("serve/listener.py", "import socket\nfrom pgbackup.backup.stored import StoredBackup"),
        ("serve/handler.py", "from pgbackup.serve.entry.connection import Connection"),
        ("serve/pgdata/livewal.py", "from pgbackup.serve.pgdata.liveserver import LiveServer"),
        ("cli/backup.py", "import typer\nimport tqdm\nfrom pgbackup import __version__, config"),
        ("__main__.py", "from pgbackup.cli.app import main"),
        ("storage/durable.py", "os.fsync(fd); os.rename(a, b); os.link(a, b)"),
        ("storage/local.py", "self._filesystem.rename(a, b)\nname.replace('a', 'b')"),
        ("repo/record.py", "now.replace(microsecond=0)"),
        ("restore/tree.py", "open(path)\nos.open(path, 0)"),
        ("serve/handler.py", "subprocess.run(['ls'], shell=False)"),
    ],
)
def test_what_the_rules_allow_is_no_breach(path: str, source: str) -> None:
    assert breaches(PurePosixPath("pgbackup") / path, source) == []
