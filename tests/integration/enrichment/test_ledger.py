"""The ledger under any order of events: leases move on, answers come late, twice or never."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.types.json import Jsonb

from tests.support.databases import Database
from tests.support.functions import until_waiting
from tests.support.project import ACME

LEASE = b"""select public.lease_jobs(jsonb_build_object('worker_id', 'w', 'limit', 1,
    'tick_id', gen_random_uuid(), 'job_types', jsonb_build_array('enrich_account')))"""
NEXT_LEASE = b"""with job as (update public.jobs set fence = fence + 1 returning id)
    update queue.leases set fence = fence + 1 where job_id in (select id from job)"""


class Ledger(RuleBasedStateMachine):
    """One job whose workers come, call, die and come back; a model of what must be counted."""

    connection: psycopg.Connection[Any]

    @initialize()
    def start(self) -> None:
        """A job nobody holds yet."""
        self.connection.execute("delete from public.jobs")
        self.connection.execute("delete from enrichment.calls")
        self.connection.execute("update public.workspace_settings set enrichment_credits_used = 0")
        self.job = self.one(
            "select public.enqueue_job(%s, 'enrich_account', '{}') -> 'job' ->> 'id'", ACME
        )
        self.fence = 0
        self.begun: set[int] = set()
        self.answers: dict[int, int] = {}

    def one(self, statement: str, *args: object) -> Any:
        row = self.connection.execute(statement.encode(), args).fetchone()
        assert row is not None
        return row[0]

    @rule()
    def lease(self) -> None:
        """The next worker takes over; the one before may still be at work."""
        self.fence += 1
        self.connection.execute(LEASE if self.fence == 1 else NEXT_LEASE)

    @precondition(lambda self: self.fence > 0)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Only the holder may call, and only where no answer was paid for yet."""
        fence = data.draw(st.integers(1, self.fence))
        ask = "select public.enrichment_begin_call(%s, %s, 'apollo')"
        if fence != self.fence:
            with pytest.raises(psycopg.Error) as refused:
                self.one(ask, self.job, fence)
            assert refused.value.sqlstate == "PT409"
            return
        paid = self.one(ask, self.job, fence)["answer"]
        assert (paid is None) == (not self.answers)
        if paid is None:
            self.begun.add(fence)
        else:
            assert paid == {"of": min(self.answers)}

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), credits=st.integers(0, 3))
    def finish(self, data: st.DataObject, credits: int) -> None:
        """An answer counts once, however late and however often it is recorded."""
        fence = data.draw(st.sampled_from(sorted(self.begun)))
        counted = self.one(
            "select public.enrichment_finish_call(%s, %s, 'apollo', %s, %s)",
            self.job,
            fence,
            Jsonb({"of": fence}),
            credits,
        )["counted"]
        assert counted == (fence not in self.answers)
        self.answers.setdefault(fence, credits)

    @precondition(lambda self: self.begun - set(self.answers))
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        """A refused call leaves no trace; an answered one cannot be forgotten."""
        fence = data.draw(st.sampled_from(sorted(self.begun)))
        gone = self.one("select public.enrichment_abandon_call(%s, %s, 'apollo')", self.job, fence)[
            "abandoned"
        ]
        assert gone == (fence not in self.answers)
        if fence not in self.answers:
            self.begun.discard(fence)

    @invariant()
    def credits_are_those_of_the_answers(self) -> None:
        """The counter is never off by a single one."""
        if hasattr(self, "answers"):
            used = self.one(
                "select enrichment_credits_used from public.workspace_settings"
                " where workspace_id = %s",
                ACME,
            )
            open_calls = self.one("select count(*) from enrichment.calls where answer is null")
            assert used == sum(self.answers.values())
            assert open_calls == len(self.begun - set(self.answers))


def held(connection: psycopg.Connection[Any]) -> Any:
    """A job that is leased: its id and fence."""
    register(connection)
    connection.execute("select public.enqueue_job(%s, 'enrich_account', '{}')", (ACME,))
    connection.execute(LEASE)
    return connection.execute("select job_id, fence from queue.leases").fetchone()


def register(connection: psycopg.Connection[Any]) -> None:
    """Make the job type known."""
    connection.execute('select public.register_job_types(\'[{"job_type": "enrich_account"}]\')')


def test_credits_add_up_in_any_order_of_events(seeded: Database) -> None:
    """Late answers, repeated records, lost leases, refusals: the sum is always right."""
    with seeded.connect() as connection:
        register(connection)

        class Connected(Ledger):
            def __init__(self) -> None:
                super().__init__()
                self.connection = connection

        run_state_machine_as_test(
            Connected,
            settings=settings(
                stateful_step_count=25,
                derandomize=True,  # the same orders in every run
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_an_answer_is_deleted_with_its_job_and_its_cost_is_kept(seeded: Database) -> None:
    """What Apollo says of a person must not outlive retention, also when it comes late."""
    begin = "select public.enrichment_begin_call(%s, %s, %s)"
    finish = 'select public.enrichment_finish_call(%s, %s, %s, \'{"email": "a@b.c"}\', 1)'
    with seeded.connect() as connection:
        job = held(connection)
        for step in ("paid", "late"):
            connection.execute(begin, (*job, step))
        connection.execute(finish, (*job, "paid"))
        answers = b"select step, answer ->> 'email', credits from enrichment.calls order by step"
        assert connection.execute(answers).fetchall() == [
            ("late", None, None),
            ("paid", "a@b.c", 1),
        ]

        connection.execute("delete from public.jobs")
        connection.execute(finish, (*job, "late"))

        assert connection.execute(answers).fetchall() == [("late", None, 1), ("paid", None, 1)]


def test_an_answer_that_meets_the_delete_of_its_job_is_not_kept(seeded: Database) -> None:
    """Whichever of the two is first."""
    finish = "select public.enrichment_finish_call(%s, %s, 'late', '{\"email\": \"a@b.c\"}', 1)"
    with seeded.connect() as connection, seeded.connect() as other:
        job = held(connection)
        connection.execute("select public.enrichment_begin_call(%s, %s, 'late')", job)

        with ThreadPoolExecutor(1) as pool:
            with connection.transaction():
                connection.execute("delete from public.jobs")
                finished = pool.submit(other.execute, finish, job)
                until_waiting(seeded)
            finished.result(60)

        row = connection.execute("select answer, credits from enrichment.calls").fetchone()
        assert row == (None, 1)


def test_only_the_holder_of_a_job_pauses_its_workspaces_key(seeded: Database) -> None:
    """A worker stops a workspace's calls for a job it was leased, and for no other."""
    pause = "select public.enrichment_pause(%s, %s, 600) ->> 'paused_until'"
    until = b"select apollo_paused_until from public.workspace_settings where workspace_id = %s"
    with seeded.connect() as connection:
        register(connection)
        made = connection.execute(
            "select public.enqueue_job(%s, 'enrich_account', '{}') -> 'job' ->> 'id'", (ACME,)
        ).fetchone()
        assert made is not None
        connection.execute("update public.workspace_settings set apollo_paused_until = null")
        with seeded.as_role("job_worker") as worker:
            for fence in (0, 1):
                with pytest.raises(psycopg.Error) as refused:
                    worker.execute(pause, (made[0], fence))
                assert refused.value.sqlstate == "PT409"
            assert connection.execute(until, (ACME,)).fetchone() == (None,)
            connection.execute(LEASE)
            worker.execute(pause, (made[0], 1))
        assert connection.execute(until, (ACME,)).fetchone() != (None,)
