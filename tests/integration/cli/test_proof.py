"""`doctor --stage`'s proof: a throw-away job all the way, and planted faults that it must name."""

from __future__ import annotations

from minutehand.cli.doctor.findings import Finding
from tests.integration.cli.test_doctor import found
from tests.support.stacks import RunningStack

LEFT = (
    "select count(*) from public.jobs where job_type = 'minutehand.doctor' union all"
    " select count(*) from queue.job_types where job_type = 'minutehand.doctor'"
)
PAUSE = "insert into queue.pauses (kind, name) values ('queue', 'default')"


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


def test_the_step_that_fails_is_named_with_its_fix(stack: RunningStack) -> None:
    """By the first thing that does not happen, and nothing is left either."""
    with stack.connect() as sql:
        sql.execute(PAUSE.encode())
        try:
            finding = proved(stack)
        finally:
            sql.execute("delete from queue.pauses where name = 'default'")

    assert finding.verdict == "fail"
    assert finding.detail.startswith("not leased: ")
    assert "explain" in str(finding.fix)
