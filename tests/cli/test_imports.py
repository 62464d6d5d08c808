"""What a verb loads: start-up is a tenth of a short run."""

import subprocess
import sys

import pytest

LOADED = "import sys; from pgbackup.cli.app import build_app; build_app(sys.argv[1:]); " + (
    "print(*sys.modules, sep='\\n')"
)


def loaded(verb: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, verb], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("verb", ["list", "show", "verify", "restore"])
def test_a_verb_that_knows_only_the_repository_loads_no_libpq(verb: str) -> None:
    assert loaded(verb).isdisjoint({"psycopg", "asyncio", "tqdm"})


def test_a_verb_that_connects_does() -> None:
    assert "psycopg" in loaded("backup")
