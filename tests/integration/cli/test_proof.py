"""`doctor --stage`'s proof: a throw-away job all the way, and planted faults that it must name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from minutehand.cli.doctor import proof as proving
from minutehand.cli.doctor.findings import Finding, Verdict
from tests.integration.cli.test_doctor import found
from tests.support.stacks import RunningStack

LEFT = (
    "select count(*) from public.jobs where job_type = 'minutehand.doctor' union all"
    " select count(*) from queue.job_types where job_type = 'minutehand.doctor'"
)
SLOT_WAITS = (
    "select from pg_stat_activity where backend_type = 'walsender'"
    " and query like 'CREATE_REPLICATION_SLOT \"supabase_realtime_messages_%'"
)
STEPS = ("registered", "enqueued", "joined", "replication", "leased", "settled")


def proved(stack: RunningStack, **changes: str | None) -> Finding:
    """What the proof says, which must leave nothing."""
    finding = found(stack, "proof", **changes)
    with stack.connect() as sql:
        assert sql.execute(LEFT).fetchall() == [(0,), (0,)]
    return finding


def test_a_sound_project_is_proved_step_by_step(stack: RunningStack) -> None:
    """Each step and each kind of topic with its time; nothing is left."""
    finding = proved(stack)

    assert finding.verdict is Verdict.OK, finding
    for step in (*STEPS, "message on job", "message on workspace", "message on session"):
        assert f"{step} " in finding.detail


@contextmanager
def planted(stack: RunningStack, fault: str, repair: str) -> Iterator[None]:
    """A fault in the database for a while; perhaps none."""
    with stack.connect() as sql:
        sql.execute(fault.encode())
        try:
            yield
        finally:
            sql.execute(repair.encode())


def test_missing_policies_are_named(stack: RunningStack) -> None:
    """Not every project lets migrations create them."""
    with stack.connect() as sql:
        policies = sql.execute(
            "select policyname, roles::text[], qual from pg_policies"
            " where schemaname = 'realtime' and tablename = 'messages' and cmd = 'SELECT'"
        ).fetchall()
    drop = ";".join(f'drop policy "{name}" on realtime.messages' for name, _, _ in policies)
    create = ";".join(
        f'create policy "{name}" on realtime.messages for select'
        f" to {', '.join(roles)} using ({qual})"
        for name, roles, qual in policies
    )
    with planted(stack, drop, create):
        finding = proved(stack)

    assert finding.verdict is Verdict.FAIL
    assert "Unauthorized" in finding.detail
    assert finding.fix == proving.POLICIES


PAUSE = "insert into queue.pauses (kind, name) values ('queue', 'default')"
NO_JOBS = (
    "create function public.no_jobs() returns trigger language plpgsql"
    " as 'begin perform queue.refuse(429, ''quota_exceeded'', ''enough''); end';"
    "create trigger no_jobs before insert on public.jobs for each row"
    " when (new.job_type = 'minutehand.doctor') execute function public.no_jobs()"
)
#: Sent in the same transaction, and never inserted.
NO_MESSAGES = (
    "create function public.no_messages() returns trigger language plpgsql"
    " as 'begin return null; end';"
    "create trigger no_messages before insert on realtime.messages for each row"
    " when (new.event is not null) execute function public.no_messages()"
)


@pytest.mark.parametrize(
    ("fault", "repair", "changes", "detail", "fix"),
    [
        ("", "", {"SUPABASE_JWT_SECRET": "x" * 40, "SUPABASE_WORKER_KEY": None}, "registered", ""),
        (NO_JOBS, "drop function public.no_jobs() cascade", {}, "enqueued", "Limits"),
        (PAUSE, "delete from queue.pauses where name = 'default'", {}, "leased", "explain"),
        (NO_MESSAGES, "drop function public.no_messages() cascade", {}, "message on job",
         "--only messages"),
    ],
    ids=["worker-key", "quota", "paused-queue", "no-messages"],
)  # fmt: skip
def test_the_step_that_fails_is_named_with_its_fix(
    stack: RunningStack,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    repair: str,
    changes: dict[str, str | None],
    detail: str,
    fix: str,
) -> None:
    """By the first thing that does not happen, and nothing is left either."""
    if detail == "leased":  # else it may need more, where another worker looks at the same
        monkeypatch.setattr(proving, "LEASE_CALLS", 2)
    monkeypatch.setattr(proving, "MESSAGE_SECONDS", 2.0)
    with planted(stack, fault, repair):
        finding = proved(stack, **changes)

    assert finding.verdict is Verdict.FAIL
    assert finding.detail.startswith(f"not {detail}: ")
    assert finding.fix
    assert fix in finding.fix
