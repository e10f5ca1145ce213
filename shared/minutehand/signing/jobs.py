"""Signs what the processors of signed job types return, before the job is settled.

The result is a step first: whatever attempt signs it, it is the same, and signed once. Jobs that
end otherwise are closed afterwards, by any worker: there may have been none when they ended.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from minutehand.aws.sealing import Sealer
from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.functions import WorkerFunctions
from minutehand.signing.canonical import digest_of, digest_or_none
from minutehand.signing.models import Issued, Unsigned
from minutehand.signing.signer import Signer
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.middleware import Call
from minutehand.worker.outcomes import Fail, Outcome, Returned
from minutehand.worker.plain import plain

#: The step that keeps the result until the job is settled.
STEP = "Signed result"
#: Jobs closed in one round: a worker run waits for it before it leases.
MOST_CLOSED = 25


class ResultSigner:
    """Middleware around signed job types; outermost, so that it signs what is settled."""

    def __init__(
        self, settings: Settings, *, sealer: Sealer | None = None, clock: Clock | None = None
    ) -> None:
        self._functions = WorkerFunctions(settings)
        self._signer = Signer(settings, "jobs", sealer=sealer, clock=clock)

    async def __call__(self, job: Job[Any], ctx: JobContext, call: Call, /) -> Returned:
        """Run the processor and have a receipt of its result stored, at most one per job."""
        returned: Returned = None
        if not ctx.has_step(STEP):
            returned = await call()
            if isinstance(returned, Outcome):
                return returned  # no result yet, or none at all
            try:
                plain(returned)
            except ValueError:
                return returned  # the settlement says why it cannot be stored

        async def result() -> Returned:
            return returned

        kept = await ctx.step(STEP, result)

        async def send(receipt: dict[str, Any]) -> Issued:
            stored = await self._functions.call_held(
                "issue_receipt", job.id, job.fence, receipt=receipt
            )
            return Issued.model_validate(stored)

        told = Unsigned.model_validate(
            await self._functions.call_held("issue_receipt", job.id, job.fence, result=kept)
        )
        try:
            # by what readers will get: jsonb writes some numbers another way
            if told.result != kept:
                return Fail("the result cannot be signed: the database keeps its numbers otherwise")
            hashes = {"payload": digest_of(told.payload), "result": digest_of(told.result)}
        except ValueError as error:
            return Fail(f"the result cannot be signed: {error}")
        receipt = told.receipt
        if not told.issued:
            receipt = (await self._signer.issue_stated(told, hashes, send)).receipt
        if receipt is None or receipt["hashes"]["result"] != hashes["result"]:
            return Fail("the job has a receipt of another result")
        return kept

    async def close_ended(self) -> int:
        """Sign for jobs of signed types that failed or were cancelled, whatever ended them.

        A publisher, see `Registry.publisher`.
        """
        for _ in range(MOST_CLOSED):
            told = await self._close()
            if told.head is None:
                break
            hashes = {"payload": digest_or_none(told.payload), "result": digest_of(told.result)}
            send = partial(self._close, told.stated["job_id"])
            await self._signer.issue_stated(told, hashes, send)
        return 0

    async def _close(
        self, job_id: str | None = None, receipt: dict[str, Any] | None = None
    ) -> Unsigned:
        arguments = {"p_job_id": job_id, "p_receipt": receipt}
        return Unsigned.model_validate(await self._functions.call("close_receipt", arguments))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._functions.aclose()
        await self._signer.aclose()
