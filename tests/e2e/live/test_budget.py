"""A bulk of jobs on the free plan's limit: no channel is shut down, and no one misses anything.

The same run with 100,000 jobs is `python -m infra.bench.budget`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from infra.bench.budget import Report, run
from tests.support.stacks import RunningStack, end, launch, wait_ready

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(400),  # two minutes of patience on top of a stack's start
    # the official client reads properties that `websockets` deprecates
    pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ConnectionClosed.reason is deprecated:DeprecationWarning"),
]

LIMIT = 100


@pytest.fixture(scope="module")
def free_plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack whose Realtime allows what hosted's free plan does."""
    folder: Path = tmp_path_factory.mktemp("free-plan")
    launcher = launch(folder, "--no-demo", REALTIME_MESSAGES_PER_SECOND=str(LIMIT))
    try:
        yield wait_ready(folder, launcher)
    finally:
        end(folder, launcher)


async def bulk(
    stack: RunningStack, budget: int | str, *, jobs: int = 1000, linger: float = 6
) -> Report:
    """A bulk of jobs under a budget; `linger` is how long its end may be waited for."""
    with psycopg.connect(stack.database_url, autocommit=True) as sql:
        sql.execute(
            "select public.set_settings(%s)", (Jsonb({"realtime_messages_per_second": budget}),)
        )
    return await run(
        stack.values, jobs=jobs, limit=LIMIT, watched_jobs=2, watchers=2, linger=linger
    )


async def test_a_stack_sets_the_databases_limit(free_plan: RunningStack) -> None:
    """Whoever lowers the local server's limit need not know of the database's setting."""
    with psycopg.connect(free_plan.database_url) as sql:
        row = sql.execute("select queue.setting('realtime_messages_per_second')").fetchone()

    assert row == ("free",)


async def test_a_bulk_stays_within_the_plan_and_everybody_sees_all(free_plan: RunningStack) -> None:
    """The application's own channel is none of the jobs' business."""
    report = await bulk(free_plan, "free")

    assert report.problems == []
    assert report.held > 0


async def test_what_followers_were_not_sent_is_announced(free_plan: RunningStack) -> None:
    """A budget too small for the followed topics as well: all of it is seen by looking again."""
    report = await bulk(free_plan, 2)  # also where a busy machine takes a minute for the jobs

    assert report.problems == []
    assert report.look_again > 0


async def test_without_the_budget_the_same_bulk_breaks_the_plan(free_plan: RunningStack) -> None:
    """The proof's own proof: what the budget prevents does happen here."""
    report = await bulk(free_plan, 1_000_000, jobs=3000, linger=60)

    assert report.worst_window > 5 * LIMIT
    assert any("Too many messages per second" in each for each in report.foreign)
