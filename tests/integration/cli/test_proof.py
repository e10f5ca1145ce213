"""`doctor --stage`'s proof: a throw-away job all the way, and planted faults that it must name."""

from __future__ import annotations

import pytest

from minutehand.cli.doctor import proof as proving
from minutehand.cli.doctor.findings import Finding
from tests.integration.cli.test_doctor import found
from tests.support.stacks import RunningStack

LEFT = (
    "select count(*) from public.jobs where job_type = 'minutehand.doctor' union all"
    " select count(*) from queue.job_types where job_type = 'minutehand.doctor'"
)
PAUSE = "insert into queue.pauses (kind, name) values ('queue', 'default')"
#: Sent in the same transaction, and never inserted.
NO_MESSAGES = (
    "create function public.no_messages() returns trigger language plpgsql"
    " as 'begin return null; end';"
    "create trigger no_messages before insert on realtime.messages for each row"
    " when (new.event is not null) execute function public.no_messages()"
)


def proved(stack: RunningStack, **changes: str | None) -> Finding:
    """What the proof says, which must leave nothing."""
    finding = found(stack, "proof", **changes)
    with stack.connect() as sql:
        assert sql.execute(LEFT).fetchall() == [(0,), (0,)]
    return finding


def test_a_sound_project_is_proved_step_by_step(stack: RunningStack) -> None:
    """Each step and each kind of topic with its time; nothing is left."""
    finding = proved(stack)

    assert finding.verdict == "ok", finding
    for step in ("enqueued", "joined", "leased", "settled", "message on job", "message on session"):
        assert f"{step} " in finding.detail


@pytest.mark.parametrize(
    ("fault", "repair", "detail", "fix"),
    [
        (PAUSE, "delete from queue.pauses where name = 'default'", "leased", "explain"),
        (NO_MESSAGES, "drop function public.no_messages() cascade", "message on job", "logs"),
    ],
    ids=["paused-queue", "no-messages"],
)
def test_the_step_that_fails_is_named_with_its_fix(
    stack: RunningStack,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    repair: str,
    detail: str,
    fix: str,
) -> None:
    """By the first thing that does not happen, and nothing is left either."""
    monkeypatch.setattr(proving, "MESSAGE_SECONDS", 2.0)
    with stack.connect() as sql:
        sql.execute(fault.encode())
        try:
            finding = proved(stack)
        finally:
            sql.execute(repair.encode())

    assert finding.verdict == "fail"
    assert finding.detail.startswith(f"not {detail}: ")
    assert fix in str(finding.fix)
