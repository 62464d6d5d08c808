"""pytest fixtures for real servers: every test gets its own, nothing is left behind.

Tests that use a server get the marker "server". A missing server is installed, and is an error if
that fails, never a skip. When a test fails, the tails of its servers' logs are in the report.
"""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.account import cluster_space
from tests.binaries import (
    MAJORS,
    MissingProgram,
    find_server,
    install,
    server_majors,
    server_version,
)
from tests.cluster import Cluster

ClusterFactory = Callable[..., Cluster]
"""factory(major, *, start=True, **options of Cluster.create) -> Cluster"""

CLUSTERS = pytest.StashKey[list[Cluster]]()
BASETEMP = "pgb-pytest-"
SECONDS_PER_DAY = 86400
ON_DISK = 32
"""Megabytes of a segment from which a cluster is too large to lie in memory, or to be kept."""
OWN_BASETEMP = pytest.StashKey[Path]()


def majors() -> list[int]:
    try:
        return server_majors()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """When root, use a base directory that other pytest runs do not close to the servers."""
    if os.geteuid() == 0 and not config.option.basetemp and not hasattr(config, "workerinput"):
        remove_old_basetemps()
        basetemp = Path(tempfile.gettempdir(), f"{BASETEMP}{os.getpid()}-{secrets.token_hex(2)}")
        config.option.basetemp = str(basetemp)
        config.stash[OWN_BASETEMP] = basetemp


def remove_old_basetemps() -> None:
    """Remove what failed runs left to be looked into, after a day."""
    for directory in Path(tempfile.gettempdir()).glob(BASETEMP + "*"):
        with suppress(OSError):
            if directory.stat().st_mtime < time.time() - SECONDS_PER_DAY:
                shutil.rmtree(directory)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove the base directory unless somebody may want to look into it."""
    basetemp = session.config.stash.get(OWN_BASETEMP, None)
    if basetemp is not None and exitstatus != pytest.ExitCode.TESTS_FAILED:
        shutil.rmtree(basetemp, ignore_errors=True)


def pytest_report_header() -> str:
    """Name the servers that are installed; others are installed when a test asks for them."""
    found = [server_version(major) for major in majors() if find_server(major)]
    return "postgres servers: " + (", ".join(found) or "none installed yet")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that can start a server, early enough for -m to see it."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        if "cluster_factory" in names or "module_cluster_factory" in names:
            item.add_marker("server")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the logs of the test's servers to the report of a failure."""
    report = yield
    if report.failed:
        for node in item.listchain():
            for cluster in node.stash.get(CLUSTERS, []):
                title = f"log of PostgreSQL {cluster.major}, {cluster.pgdata}"
                report.sections.append((title, cluster.log_tail()))
    return report


@pytest.fixture(scope="session", params=majors(), ids=lambda major: f"pg{major}")
def major(request: pytest.FixtureRequest) -> int:
    """Each supported major in turn; @pytest.mark.parametrize("major", ...) narrows it."""
    chosen: int = request.param
    return chosen


@pytest.fixture(scope="session")
def cluster_templates() -> Iterator[Path]:
    """Where this session keeps one initdb result for each set of options."""
    directory = Path(tempfile.mkdtemp(prefix="pgb-init-", dir=cluster_space()))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def cluster_factory(
    request: pytest.FixtureRequest, cluster_templates: Path
) -> Iterator[ClusterFactory]:
    """Makes servers that end with the test."""
    with ExitStack() as stack:
        yield make_factory(request.node, cluster_templates, stack)


@pytest.fixture(scope="module")
def module_cluster_factory(
    request: pytest.FixtureRequest, cluster_templates: Path
) -> Iterator[ClusterFactory]:
    """Makes servers that end with the module, for tests that only read."""
    with ExitStack() as stack:
        yield make_factory(request.node, cluster_templates, stack)


@pytest.fixture
def cluster(cluster_factory: ClusterFactory, major: int) -> Cluster:
    """A started server of each major."""
    return cluster_factory(major)


@pytest.fixture
def newest_cluster(cluster_factory: ClusterFactory) -> Cluster:
    """A started server of the newest major."""
    return cluster_factory(MAJORS[-1])


def make_factory(node: pytest.Item, templates: Path, stack: ExitStack) -> ClusterFactory:
    """Function that makes clusters in a directory of their own until the stack ends."""
    clusters = node.stash.setdefault(CLUSTERS, [])
    stack.callback(clusters.clear)

    def base(parent: Path) -> Path:
        made = Path(tempfile.mkdtemp(prefix="pgb-", dir=parent))
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        return made

    space = base(cluster_space())

    def factory(major: int, *, start: bool = True, **options: object) -> Cluster:
        try:
            install(major)
        except MissingProgram as error:
            pytest.fail(str(error), pytrace=False)
        if int(str(options.get("wal_segsize_mb", 1))) >= ON_DISK:
            directory, kept = base(Path(tempfile.gettempdir())) / "0", None
        else:
            directory, kept = space / str(len(clusters)), templates
        made = Cluster.create(directory, major, templates=kept, **options)  # type: ignore[arg-type]
        stack.enter_context(made)
        clusters.append(made)
        if start:
            made.start()
        return made

    return factory
