"""Fixtures of every folder: a Postgres, a fresh database per test, the whole stack."""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.groups import LONG, Grouped, group_of
from tests.support.paths import ROOT
from tests.support.run_report import install, leave_out
from tests.support.shared import folder_of_run
from tests.support.stranger import environment, stranger, wheel

# Every test process imports this file. A fixture therefore imports the modules that it needs when
# it runs.
if TYPE_CHECKING:
    from supabase_local.postgres import Postgres
    from tests.support.databases import Database
    from tests.support.renewed import Renewed
    from tests.support.stacks import RunningStack

__all__ = ["environment", "stranger", "wheel"]
#: The file of the next test.
NEXT = pytest.StashKey[str | None]()
#: A narrow terminal must not cut the output of commands in a pipe.
os.environ.pop("COLUMNS", None)
#: With `CI` or `FORCE_COLOR`, programs would colour their output in a pipe.
os.environ["NO_COLOR"] = "1"
os.environ.pop("FORCE_COLOR", None)
#: The beginnings of a developer's variables that would change what a command does.
OUTSIDE = (
    *("ALLOW_", "API_", "APOLLO_", "AWS_", "BACKGROUND_", "BEACON_", "CHAT_", "CORS_", "DATABASE_"),
    *("ENABLE_", "EXTRA_", "FFMPEG_", "GIT_", "KMS_", "LANGUAGE_", "LOG_", "MINUTEHAND_", "MUX_"),
    *("NEXT_PUBLIC_", "OPENAI_", "OTEL_", "PG", "PLANS_", "SEALING_", "SENTRY_", "SPEECH_"),
    *("STAGE", "STREAM", "SUPABASE_", "TRAINING_", "UPLOADS_", "USE_MOCK_", "WORKER"),
)
if "PYTEST_XDIST_WORKER" not in os.environ:
    for name in list(os.environ):
        if name.startswith(OUTSIDE):
            del os.environ[name]
#: No test may use a developer's AWS account, passwords or settings of git.
os.environ |= {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    **dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull),
    **dict.fromkeys(("PGPASSFILE", "PGSERVICEFILE", "GIT_CONFIG_GLOBAL"), os.devnull),
}
#: A cache of compiled JavaScript halves the start time of each Data API, osls and tsc in tests.
os.environ.setdefault("NODE_COMPILE_CACHE", str(ROOT / ".local" / "test-node"))
#: Collect garbage rarely, and never before the tests are collected. Objects of tests and modules
#: stay in memory, and searching them for garbage took a tenth of the time.
gc.disable()
gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _patient_http() -> Iterator[None]:
    """Set a long timeout for HTTP requests without one, and read the certificates once."""
    import httpx
    import httpx._config as defaults
    import httpx._transports.default as transports

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transports, "create_ssl_context", functools.cache(httpx.create_ssl_context))
        for name in ("connect", "read", "write", "pool"):
            patch.setattr(defaults.DEFAULT_TIMEOUT_CONFIG, name, 120.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _project_above(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Put a project above the folders of all tests, which no command of a test may use.

    A forgotten file in a parent folder then changes nothing.
    """
    (folder_of_run(tmp_path_factory) / "minutehand.toml").write_text('schema = "elsewhere"\n')


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    """Restore the log level, because a changed level would add log lines to the next test."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The Postgres server of this test process, which does not write durably."""
    from tests.support.databases import prepared_server

    server = prepared_server(tmp_path_factory.mktemp("postgres"))
    server.start()
    try:
        yield server
    finally:
        server.destroy()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    """The database of one test: `.url`, `.connect()`, `.as_role(role, claims)`."""
    from tests.support.databases import fresh_database

    with fresh_database(postgres) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def process_database(postgres: Postgres) -> Iterator[Renewed]:
    """The database behind `renewed`, for files whose tests share it without a reset."""
    from tests.support.renewed import Renewed

    with closing(Renewed(postgres)) as made:
        yield made


@pytest.fixture
def renewed(request: pytest.FixtureRequest, process_database: Renewed) -> Renewed:
    """A database with only the demo users and the seeds' rows. `.gateway` is its Data API."""
    process_database.renew(fresh=request.node.get_closest_marker("fresh") is not None)
    return process_database


@pytest.fixture(scope="session")
def kept_stacks() -> Iterator[list[tuple[RunningStack, ExitStack]]]:
    """The shared stack, if it runs."""
    kept: list[tuple[RunningStack, ExitStack]] = []
    yield kept
    for _, ends in kept:
        ends.close()


@pytest.fixture(scope="module")
def stack(
    request: pytest.FixtureRequest,
    kept_stacks: list[tuple[RunningStack, ExitStack]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningStack]:
    """The whole local stack. Tests share it and create their own rows.

    Only the last files of a group stop parts of the stack, and each test repairs it.

    The stack ends after the last file of its group, because an idle stack takes 3 % of a core.
    """
    from tests.support.stacks import running_stack

    if not kept_stacks:
        ends = ExitStack()
        kept_stacks.append(
            (ends.enter_context(running_stack(tmp_path_factory.mktemp("stack"))), ends)
        )
    yield kept_stacks[0][0]
    following = request.config.stash[NEXT]
    if following is None or group_of(following)[0] != group_of(file_of(request.node))[0]:
        kept_stacks.pop()[1].close()


@pytest.fixture
def acme_key(stack: RunningStack) -> None:
    """Set a working offline Apollo key for the demo workspace, through the API as the demo does."""
    import httpx

    answer = httpx.put(
        f"{stack.api_url}/api/workspaces/{stack.demo_workspace_id}/settings",
        headers={"Authorization": f"Bearer {stack.sign_in(stack.demo_email)}"},
        json={"apollo_api_key": "test-key-acme-0042"},
    )
    assert answer.status_code == 200, answer.text


def pytest_configure(config: pytest.Config) -> None:
    """Show the progress of a test run with several processes."""
    install(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files by their groups, then long files, the others, and unit tests."""
    leave_out(config, items)

    def place(item: pytest.Item) -> tuple[tuple[int, int], int, int]:
        file = file_of(item)
        length = file.startswith("tests/unit/") - file.startswith(LONG)
        return group_of(file), length, zlib.crc32(file.encode())

    items.sort(key=place)
    gc.freeze()
    gc.enable()


def file_of(node: pytest.Item | pytest.Collector) -> str:
    """Return the path of a test's file."""
    return node.nodeid.partition("::")[0]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Collect once the garbage in which pytest looks for errors four times."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Store the next test's file for the fixture `stack`."""
    item.config.stash[NEXT] = file_of(nextitem) if nextitem else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run two processes more than there are cores, because tests wait for a part of their time.

    Unit tests hardly wait, and each process needs two seconds to collect them, so `-n logical` runs
    one process per core.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return cores + 2 if config.option.numprocesses == "auto" else cores


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Grouped | None:
    """Run each group of test files in one process."""
    return Grouped(config, log) if config.getoption("dist") == "loadfile" else None
