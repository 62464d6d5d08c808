"""Where the PostgreSQL programs of each major are.

Looked up on every call and never remembered, so that an installation made while the tests run is
seen. Standard library only: scripts/install-postgres imports this too.
"""

import os
import re
import subprocess
from pathlib import Path

MAJORS = (13, 14, 15, 16, 17, 18)
CLIENT_MAJORS = (15, 17, 18)
SERVER_PROGRAMS = ("initdb", "pg_ctl", "postgres")
INSTALL_SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "install-postgres"


class MissingProgram(Exception):
    """A PostgreSQL program is not on this machine; the text names the command that installs it."""


def server_majors(at_least: int = MAJORS[0]) -> list[int]:
    """Majors the tests run on: all of them, or those in PGBACKUP_TEST_MAJORS ("15,18").

    Raises:
        ValueError: PGBACKUP_TEST_MAJORS names something that is not a supported major.
    """
    chosen = os.environ.get("PGBACKUP_TEST_MAJORS", "")
    words = [word for word in re.split(r"[,\s]+", chosen) if word] or [str(m) for m in MAJORS]
    unknown = [word for word in words if word not in {str(m) for m in MAJORS}]
    if unknown:
        raise ValueError(
            f"PGBACKUP_TEST_MAJORS={chosen!r}: {unknown[0]!r} is none of "
            + ", ".join(str(m) for m in MAJORS)
        )
    return [major for major in MAJORS if str(major) in words and major >= at_least]


def cache_directory() -> Path:
    """Where scripts/install-postgres puts what it fetches: CACHE/MAJOR/bin, CACHE/MAJOR/client."""
    chosen = os.environ.get("PGBACKUP_PG_CACHE")
    if chosen:
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/cache/pgbackup-postgres")
    return Path.home() / ".cache" / "pgbackup" / "postgres"


def system_bin(major: int) -> Path:
    """Where Debian's and PGDG's packages put the programs of a major."""
    return Path(f"/usr/lib/postgresql/{major}/bin")


def is_server(directory: Path) -> bool:
    """Whether all programs that a server needs lie in the directory."""
    return all(os.access(directory / name, os.X_OK) for name in SERVER_PROGRAMS)


def find_server(major: int) -> Path | None:
    """Directory with the server programs of a major, or None."""
    for directory in (cache_directory() / str(major) / "bin", system_bin(major)):
        if is_server(directory):
            return directory
    return None


def find_client(name: str, major: int) -> Path | None:
    """Path of a client program of exactly this major, or None."""
    installed = cache_directory() / str(major)
    for directory in (installed / "client" / "bin", installed / "bin", system_bin(major)):
        if os.access(directory / name, os.X_OK):
            return directory / name
    return None


def server_bin(name: str, major: int) -> Path:
    """Path of a program in the server's directory of this major.

    Raises:
        MissingProgram: the server or this program is not installed.
    """
    directory = find_server(major)
    if directory is not None and os.access(directory / name, os.X_OK):
        return directory / name
    raise MissingProgram(
        f"{name} of PostgreSQL {major} is not installed: run scripts/install-postgres {major}"
    )


def client_bin(name: str, major: int) -> Path:
    """Path of a stock client program of exactly this major: always to be had for 15, 17 and 18.

    Raises:
        MissingProgram: it is not installed, or does not exist for this major.
    """
    found = find_client(name, major)
    if found is not None:
        return found
    if major in CLIENT_MAJORS:
        remedy = f"run scripts/install-postgres {major}"
    else:
        remedy = "client programs come with " + ", ".join(str(m) for m in CLIENT_MAJORS)
    raise MissingProgram(f"{name} of PostgreSQL {major} is not installed: {remedy}")


def nearest_client(name: str, major: int) -> Path:
    """Path of a client program of this major or of the next newer one that is installed.

    Raises:
        MissingProgram: there is none that new.
    """
    for candidate in range(major, MAJORS[-1] + 1):
        found = find_client(name, candidate)
        if found is not None:
            return found
    raise MissingProgram(
        f"{name} of PostgreSQL {major} or newer is not installed: "
        f"run scripts/install-postgres {MAJORS[-1]}"
    )


def server_version(major: int) -> str:
    """Version of the installed server, such as "18.4".

    Raises:
        MissingProgram: the server is not installed.
    """
    answer = subprocess.run(
        [server_bin("postgres", major), "--version"],
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    found = re.search(r"\(PostgreSQL\) (\S+)", answer.stdout)
    return found[1] if found else answer.stdout.strip()


def install(major: int) -> None:
    """Install what the tests need of a major, unless it is there.

    Raises:
        MissingProgram: the server is still missing afterwards; the text is the script's own.
    """
    wanted = major if major in CLIENT_MAJORS else MAJORS[-1]
    missing = {wanted} if find_client("pgbench", wanted) is None else set()
    if find_server(major) is None:
        missing.add(major)
    if not missing:
        return
    answer = subprocess.run(
        [INSTALL_SCRIPT, *(str(one) for one in sorted(missing))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if answer.returncode != 0 and (major in missing or find_client("pgbench", wanted) is None):
        raise MissingProgram(answer.stderr.strip() or answer.stdout.strip())
