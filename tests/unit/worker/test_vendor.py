"""Calls to a paid service: counted over all attempts of a job, with a maximum wait."""

from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from minutehand.clock import FrozenClock
from minutehand.worker import Job, JobContext, Stage
from minutehand.worker.testing import ProcessorTest, Run
from minutehand.worker.vendor import MAX_CALLS, MAX_WAIT, VendorCalls, VendorError, classify_status


class Vendor:
    """A paid service that returns scripted responses, and then the last one repeatedly."""

    def __init__(self, *answers: VendorError | str) -> None:
        self.answers = list(answers)
        self.calls = 0
        self.clock = FrozenClock()
        self.test = ProcessorTest(self.processor, None, clock=self.clock)

    async def call(self) -> str:
        self.calls += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, VendorError):
            raise answer
        return answer

    async def processor(self, job: Job[None], ctx: JobContext) -> Any:
        async def paid() -> str:
            return await VendorCalls(job, ctx, "call").get(self.call)

        return await ctx.step("paid", paid)

    async def until_over(self) -> list[Run]:
        """Run all attempts, and advance the clock by each wait that the job requests."""
        runs: list[Run] = []
        while not runs or runs[-1].outcome in {"snoozed", "retry"}:
            runs.append(await self.test.run())
            if self.test.attempt > MOST_ATTEMPTS:
                break
            wait = runs[-1].delay_seconds or runs[-1].retry_after_seconds or 0
            self.clock.advance(seconds=wait)
        return runs


MOST_ATTEMPTS = 5
SILENT = VendorError("silence", code="silent", charged=True)
AWAY = VendorError("away", code="unreachable")
BUSY = VendorError("busy", code="rate_limited", retry_after=timedelta(hours=24))


async def test_what_may_have_been_charged_is_asked_five_times() -> None:
    """A call that may have been charged is repeated at most four times with growing pauses.

    Then the job fails.
    """
    vendor = Vendor(SILENT)
    runs = await vendor.until_over()

    assert (vendor.calls, vendor.test.attempt) == (MAX_CALLS, 1)
    assert [run.delay_seconds for run in runs[:-1]] == [10, 30, 90, 270]
    assert runs[-1].outcome == "failed"
    message = "The service did not respond in time. It was asked 5 times."
    assert message in str(runs[-1].error)


async def test_no_more_is_asked_beside_a_step_that_waits_but_by_a_persons_retry() -> None:
    """A step that has used all its calls makes no more while another step waits.

    After a person's retry, it calls again.
    """
    silent, away = Vendor(SILENT), Vendor(AWAY)

    async def processor(job: Job[None], ctx: JobContext) -> None:
        async def run(vendor: Vendor, _: Any) -> str:
            return await VendorCalls(job, ctx, "call").get(vendor.call)

        vendors = {"silent": silent, "away": away}
        await ctx.graph([Stage(name=name, run=partial(run, vendors[name])) for name in vendors])

    test = ProcessorTest(processor, None, clock=silent.clock)
    for _ in range(2 * MAX_CALLS):
        assert (await test.run()).outcome == "snoozed"
        silent.clock.advance(seconds=60)
    assert silent.calls == MAX_CALLS

    away.answers = ["done"]
    over = await test.run()
    assert (over.outcome, silent.calls) == ("failed", MAX_CALLS)
    assert "The service did not respond in time" in str(over.error)

    silent.answers = ["done"]
    assert (await test.run()).outcome == "completed"


async def test_refusals_cost_no_try_and_the_patience_begins_with_the_first() -> None:
    """Rejected calls spend no attempt until a maximum wait has passed since the first rejection.

    Then each rejection spends an attempt.
    """
    vendor = Vendor(AWAY)
    vendor.clock.advance(seconds=90_000)
    runs = await vendor.until_over()

    waits = [run.delay_seconds or 0 for run in runs if run.outcome == "snoozed"]
    assert (waits[0], max(waits)) == (10, 60)
    assert MAX_WAIT.total_seconds() - 60 < sum(waits)
    assert [run.outcome for run in runs[len(waits) :]] == ["retry"] * MOST_ATTEMPTS
    assert len(vendor.test.steps) == 2


async def test_an_answer_ends_a_row_of_refusals() -> None:
    """After any other response, the maximum wait begins again with the next rejection."""
    vendor = Vendor(AWAY, SILENT, AWAY, "done")
    runs = [await vendor.test.run()]
    vendor.clock.advance(seconds=MAX_WAIT.total_seconds())
    runs += await vendor.until_over()

    assert [run.outcome for run in runs] == ["snoozed"] * 3 + ["completed"]
    assert runs[-1].result == "done"


async def test_a_wait_of_a_day_is_one() -> None:
    """A job waits a day if the service requests it.

    The progress shows the date of the next call.
    """
    vendor = Vendor(BUSY, "done")
    first, done = await vendor.until_over()

    at = vendor.clock.now()
    response = (
        f"The service has reached its rate limit; it is asked again at {at:%H:%M} UTC on {at.day}"
    )
    assert (first.delay_seconds, done.outcome) == (86_400, "completed")
    assert str(first.progress[-1].message).startswith(response)


async def test_a_call_whose_answer_could_not_be_taken_counts() -> None:
    """A call whose response raises an error in the job counts as a call."""
    vendor = Vendor("done")

    async def fails() -> str:
        vendor.calls += 1
        raise ValueError("too many words")

    vendor.call = fails  # type: ignore[method-assign]
    await vendor.until_over()
    assert vendor.calls == MAX_CALLS


@pytest.mark.parametrize(
    ("status", "code", "charged"),
    [
        (301, "misconfigured", False),
        (403, "not_authorised", False),
        (429, "rate_limited", False),
        (451, "refused", False),
        (500, "failed", False),
        (503, "unreachable", False),
        (504, "silent", True),
    ],
)
def test_a_status_means_the_same_at_each_vendor(status: int, code: str, charged: bool) -> None:
    assert (classify_status(status).code, classify_status(status).charged) == (code, charged)
