"""`doctor --stage` runs a temporary job in the stage and reports the step that fails."""

from __future__ import annotations

from minutehand.cli.doctor.results import CheckResult
from tests.integration.cli.test_doctor import run_one_check
from tests.support.stacks import RunningStack

LEFT = (
    "select count(*) from public.jobs where job_type = 'minutehand.doctor' union all"
    " select count(*) from queue.job_types where job_type = 'minutehand.doctor'"
)
PAUSE = "insert into queue.pauses (kind, name) values ('queue', 'default')"


def run_proof(stack: RunningStack, **changes: str | None) -> CheckResult:
    """Run the temporary job, check that nothing is left of it, and return the result."""
    finding = run_one_check(stack, "proof", **changes)
    with stack.connect() as sql:
        assert sql.execute(LEFT).fetchall() == [(0,), (0,)]
    return finding


def test_a_sound_project_is_proved_step_by_step(stack: RunningStack) -> None:
    """In a healthy stack, the doctor reports the duration of each step of the temporary job."""
    finding = run_proof(stack)

    assert finding.verdict == "ok", finding
    for step in ("enqueued", "joined", "leased", "settled", "message on job", "message on session"):
        assert f"{step} " in finding.detail


def test_the_step_that_fails_is_named_with_its_fix(stack: RunningStack) -> None:
    """If the queue is paused, the doctor reports that the temporary job was not leased."""
    with stack.connect() as sql:
        sql.execute(PAUSE.encode())
        try:
            finding = run_proof(stack)
        finally:
            sql.execute("delete from queue.pauses where name = 'default'")

    assert finding.verdict == "fail"
    assert finding.detail.startswith("not leased: ")
    assert "explain" in str(finding.fix)
