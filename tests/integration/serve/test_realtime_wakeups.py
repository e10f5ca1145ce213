"""A worker without a DATABASE_URL is woken by a Realtime message.

The test needs the stack's Realtime.
"""

from functools import partial
from typing import Any

import pytest

from minutehand.functions.worker import database_access
from minutehand.functions.worker.app import run_worker
from tests.support.engine import ACME
from tests.support.harness import until
from tests.support.stacks import RunningStack


async def test_an_idle_worker_leases_on_the_message_of_a_commit(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An idle worker leases a new job after Realtime's message.

    Its polls are a day apart in this test.
    """
    monkeypatch.setattr(database_access, "NOTIFIED_POLL_SECONDS", 86_400.0)
    environ = {
        name: stack.values[name]
        for name in ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_JWT_SECRET")
    }
    environ |= {"MINUTEHAND_APPS": "tests.integration.serve.greeter", "DATABASE_URL": ""}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    insert = """insert into jobs (workspace_id, job_type, payload)
      values (%s, 'served.greet', '{"name": "Ada"}') returning id"""
    # Wait until the worker run has ended, so that only a message can cause the next lease.
    ended = """select from jobs as j join queue.workers as w using (worker)
      where j.id = %s and j.status = 'completed' and w.ended_at is not null"""

    def has_ended(job: Any) -> bool:
        return connection.execute(ended, job).fetchone() is not None

    with stack.connect() as connection:
        # A wake-up counts as one message per worker of the last two minutes. The many workers of
        # earlier tests would therefore use up the budget of Realtime messages.
        connection.execute("update queue.workers set seen_at = seen_at - interval '2 minutes'")
        async with run_worker():
            await until(lambda: "Realtime wakes the worker" in capfd.readouterr().out)
            for _ in range(3):
                job = connection.execute(insert, (ACME,)).fetchone()
                await until(partial(has_ended, job))
