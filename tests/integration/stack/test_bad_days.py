"""Failures of a stack while jobs are enqueued and run: parts that die, hang or run out of room.

A thread enqueues through the Data API and repeats calls without a response. No enqueued job is
lost, and each ends once.
"""

import signal
import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.integration.serve.test_serve import served
from tests.support.engine import ACME, Json
from tests.support.patience import responds, until
from tests.support.stacks import RunningStack, children

pytestmark = pytest.mark.weekly(only=True)

JOBS, BULK = 10_000, 100
#: The duration of a failure in seconds.
SECONDS = 15


@dataclass
class Day:
    """A stack, and the ids of the enqueued jobs."""

    stack: RunningStack
    ids: list[str] = field(default_factory=list)

    def enqueue(self, is_third: threading.Event) -> None:
        """Enqueue all jobs, and repeat each bulk until there is a response."""
        headers = {"apikey": self.stack.supabase_secret_key}
        url = f"{self.stack.supabase_url}/rest/v1/rpc/enqueue_jobs"
        for number in range(0, JOBS, BULK):
            items = [
                {"job_type": "served.greet", "payload": {"name": str(n)}, "max_attempts": 20}
                | {"idempotency_key": uuid.uuid4().hex}
                for n in range(BULK)
            ]
            body = {"p_workspace_id": ACME, "p_jobs": items, "p_return": "ids"}

            def answered(body: Json = body) -> list[str] | None:
                try:
                    answer = httpx.post(url, json=body, headers=headers, timeout=20)
                except httpx.TransportError:
                    return None
                return list(answer.json()["ids"]) if answer.is_success else None

            self.ids += until(answered, seconds=600)
            if number >= JOBS // 3:
                is_third.set()

    def left(self) -> int | None:
        """Return the number of unfinished jobs, or None while the database does not respond."""
        query = "select count(*) from jobs where finished_at is null and job_type = %s"
        try:
            with self.stack.connect(connect_timeout=5) as connection:
                [(count,)] = connection.execute(query, ("served.greet",)).fetchall()
        except psycopg.Error:
            return None
        return int(count)


def dies(part: str) -> Callable[[Day], None]:
    """Return a function that kills a part of the stack and waits for its restart."""

    def kill(day: Day) -> None:
        before = children(day.stack)[part]
        before.kill()
        until(lambda: children(day.stack).get(part, before) != before)
        until(lambda: responds(f"{day.stack.supabase_url}/_ready"))

    return kill


def network_freezes(day: Day) -> None:
    """Stop the gateway for some seconds, so that it accepts connections but does not respond."""
    gateway = children(day.stack)["gateway"]
    gateway.send_signal(signal.SIGSTOP)
    threading.Event().wait(SECONDS)
    gateway.send_signal(signal.SIGCONT)


def no_connection_is_left(day: Day) -> None:
    with ExitStack() as held:
        with suppress(psycopg.OperationalError):
            for _ in range(1000):
                held.enter_context(psycopg.connect(day.stack.database_url))
        threading.Event().wait(SECONDS)


TROUBLES: dict[str, Callable[[Day], None]] = {
    **{f"{part} dies": dies(part) for part in ("postgres", "gateway", "realtime", "api", "aws")},
    "the network freezes": network_freezes,
    "no connection is left": no_connection_is_left,
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_no_job_is_lost(stack: RunningStack, tmp_path: Path, trouble: str) -> None:
    day = Day(stack)
    with served(stack, tmp_path, DATABASE_URL=stack.database_url):
        is_third = threading.Event()
        enqueuing = threading.Thread(target=day.enqueue, args=[is_third])
        enqueuing.start()
        assert is_third.wait(600)

        TROUBLES[trouble](day)

        enqueuing.join(900)
        # No job may wait forever, for a dead worker or for a clock that was changed.
        until(lambda: day.left() == 0, seconds=900)
    counted = "select count(*), count(*) filter (where attempts > 1) from jobs"
    completed = f"{counted} where id = any (%s) and status = 'completed'"
    [(done, twice)] = stack.run(completed, day.ids)
    print(f"{trouble}: {JOBS} jobs, {JOBS - done} lost, {twice} ran twice")
    assert len({*day.ids}) == done == JOBS
