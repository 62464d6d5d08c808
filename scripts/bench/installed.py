"""The program as users have it: compiled, in an environment of its own, started by its script.

Where pgbackup is installed in place, or where the environment forbids Python to keep compiled
modules, a start costs more than it does anywhere else.
"""

import compileall
import os
import shutil
import venv
from pathlib import Path

import zstandard

import pgbackup

SCRIPT = """#!{python}
# -*- coding: utf-8 -*-
import sys
from pgbackup.__main__ import main
if __name__ == '__main__':
    sys.argv[0] = sys.argv[0].removesuffix('.exe')
    sys.exit(main())
"""
"""As pip writes it (26.3)."""


def install(directory: Path) -> Path:
    """Make an environment with a copy of the package; return the path of `pgbackup` in it.

    The libraries are those of the running environment.
    """
    venv.create(directory, symlinks=True)
    (site,) = directory.glob("lib/python*/site-packages")
    shutil.copytree(Path(pgbackup.__file__).parent, site / "pgbackup")
    compileall.compile_dir(site, quiet=1)
    (site / "libraries.pth").write_text(f"{Path(zstandard.__file__).parents[1]}\n")
    program = directory / "bin" / "pgbackup"
    program.write_text(SCRIPT.format(python=directory / "bin" / "python3"))
    program.chmod(0o755)
    return program


def plain_environment() -> dict[str, str]:
    """Our environment without what would change how Python starts."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
