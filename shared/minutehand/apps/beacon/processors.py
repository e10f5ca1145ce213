"""The beacon processors: a run and its regions, each of which ends in a signed receipt.

Asking the endpoint is `sampler`'s, what is stated `receipts`', and the chain SQL's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from minutehand.apps.beacon.models import (
    Loaded,
    MeasurePayload,
    RegionPayload,
    RunPayload,
    StoredReceipt,
)
from minutehand.apps.beacon.receipts import Signer, chained, state_region, state_run
from minutehand.apps.beacon.sampler import open_sampler
from minutehand.apps.beacon.services import Beacon
from minutehand.apps.beacon.statistics import Sample, from_columns, to_columns
from minutehand.aws.sealing import SealBroken
from minutehand.config import Settings
from minutehand.queue.errors import ProcessorError, QueueError
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outbound import AddressRefused
from minutehand.worker.outcomes import Fail, Snooze
from minutehand.worker.registry import Registry

#: Samples stored together: what a crash costs at most.
BATCH = 100
#: A batch that may take longer than this at worst is made smaller.
BATCH_SECONDS = 20.0
SECONDS_TO_SPARE = 10.0
#: How long one region waits, all told, because its endpoint asked it to.
MOST_WAITED_SECONDS = 900.0
#: Tries to place a receipt at the chain's end; each that fails means another's succeeded.
MOST_RACES = 100


@dataclass(frozen=True, slots=True)
class Measured:
    """A region's samples, and where and when they were taken."""

    began: datetime
    ended: datetime
    samples: list[Sample]
    measured_from: str


class Processors:
    """The app's processors over one process's collaborators."""

    def __init__(self, app: Beacon) -> None:
        self._app = app

    async def measure(self, job: Job[MeasurePayload], ctx: JobContext) -> dict[str, Any] | Fail:
        """Start a run of the newest version of a spec; for schedules, and whoever has only SQL."""
        try:
            started = await self._app.store.start_for_job(job.id, job.fence)
        except QueueError as error:
            if error.hint != "spec_not_found":
                raise
            return Fail(f"Spec not found: {job.payload.spec}")
        ctx.log("info", "A run was started", run_id=started["run_id"])
        return {"run_id": started["run_id"], "job_id": started["job_id"]}

    async def run(self, job: Job[RunPayload], ctx: JobContext) -> dict[str, Any] | Fail:
        """Have each region measured, then sign how the run ended, also when some regions failed."""
        loaded = await self._app.store.load(job.id, job.fence)
        if loaded.run is None or loaded.spec is None:
            return Fail(f"Run not found: {job.payload.run_id}")
        ctx.progress(0, "measuring", f"{len(loaded.run.regions)} regions")
        payloads = [{"run_id": str(loaded.run.id), "region": name} for name in loaded.run.regions]
        await ctx.map(payloads, "beacon_region", on_failed="return", name="regions")

        ctx.progress(90, "signing")
        loaded = await self._app.store.load(job.id, job.fence)  # with the regions' receipts
        if loaded.run is None or loaded.spec is None:
            return Fail(f"Run not found: {job.payload.run_id}")
        receipt = _own(loaded, None)
        if receipt is None:
            statement = state_run(
                loaded.run,
                loaded.spec,
                self._signer(job),
                receipts=loaded.receipts,
                ended_at=self._app.clock.now(),
            )
            receipt = await self._issue(job, loaded, statement, None)
            ctx.log("info", f"Receipt {receipt.number} was issued for the run")
        stated = receipt.payload
        ctx.progress(100, "finished", stated["outcome"])
        return {
            "run_id": str(loaded.run.id),
            "outcome": stated["outcome"],
            "verdict": stated["verdict"],
            "receipt": receipt.number,
            "failed_regions": [r["region"] for r in stated["regions"] if r["status"] == "failed"],
        }

    async def region(
        self, job: Job[RegionPayload], ctx: JobContext
    ) -> dict[str, Any] | Fail | Snooze:
        """Measure one region, batch by batch, and sign what was measured, once."""
        loaded = await self._app.store.load(job.id, job.fence)
        if loaded.run is None or loaded.spec is None:
            return Fail(f"Run not found: {job.payload.run_id}")
        receipt = _own(loaded, job.payload.region)
        if receipt is None:
            if loaded.over is not None:
                return Fail(loaded.over)
            try:
                measured = await self._measure(job, ctx, loaded)
            except AddressRefused as error:
                return Fail(str(error))
            if isinstance(measured, Snooze):
                return measured
            statement = state_region(
                loaded.run,
                loaded.spec,
                self._signer(job),
                region=job.payload.region,
                measured_from=measured.measured_from,
                samples=measured.samples,
                started_at=measured.began,
                ended_at=measured.ended,
            )
            ctx.progress(99, "signing")
            receipt = await self._issue(job, loaded, statement, to_columns(measured.samples))
            ctx.log("info", f"Receipt {receipt.number} was issued", verdict=statement["verdict"])
        ctx.progress(100, "finished", f"receipt {receipt.number}")
        return {
            "region": job.payload.region,
            "receipt": receipt.number,
            "measured_from": receipt.payload["measured_from"],
            "verdict": receipt.payload["verdict"],
            "statistics": receipt.payload["statistics"],
        }

    async def _measure(
        self, job: Job[RegionPayload], ctx: JobContext, loaded: Loaded
    ) -> Measured | Snooze:
        """All samples of the region, from where an earlier attempt stopped."""
        assert loaded.spec is not None
        spec = loaded.spec.spec
        began = datetime.fromisoformat(await ctx.step("began", self._now))
        samples: list[Sample] = []
        places: set[str] = set()  # an attempt may run elsewhere than the one before
        waited = 0.0
        size, worst = _batch_size(spec, loaded.requests_per_second)
        before = ctx.new_steps
        # development needs both: the stage, and the engine's own setting
        loopback = self._app.settings.stage == "local" and loaded.private_addresses
        async with open_sampler(spec, began=began, loopback=loopback) as sampler:
            sampler.per_second = loaded.requests_per_second

            async def take() -> dict[str, Any]:
                if ctx.new_steps == before:
                    await sampler.warm_up(spec["warm_up"])
                batch = await sampler.take(
                    min(size, spec["samples"] - len(samples)),
                    patient=waited < MOST_WAITED_SECONDS,
                    noted=lambda count: _tell(ctx, len(samples) + count, spec["samples"]),
                )
                return {
                    "samples": to_columns(batch.samples),
                    "wait_seconds": batch.wait_seconds,
                    "from": self._app.measured_from,
                }

            number = 0
            while len(samples) < spec["samples"]:
                if ctx.new_steps > before and ctx.remaining < worst + SECONDS_TO_SPARE:
                    return Snooze(after=1)  # the rest is the next tick's
                fresh = ctx.new_steps
                if fresh > before:  # runs of the same host began or ended meanwhile
                    loaded = await self._app.store.load(job.id, job.fence)
                    sampler.per_second = loaded.requests_per_second
                    size, worst = _batch_size(spec, sampler.per_second)
                batch = await ctx.step(f"batch {number}", take)
                number += 1
                samples += from_columns(batch["samples"])
                places.add(batch["from"])
                wait = min(batch["wait_seconds"], MOST_WAITED_SECONDS - waited)
                if wait > 0 and len(samples) < spec["samples"]:
                    waited += wait
                    if ctx.new_steps > fresh:
                        ctx.log("warning", "The endpoint asked to be left alone", seconds=wait)
                        return Snooze(after=wait)
        ended = datetime.fromisoformat(await ctx.step("ended", self._now))
        return Measured(began, ended, samples, ", ".join(sorted(places)))

    async def _issue(
        self, job: Job[Any], loaded: Loaded, statement: dict[str, Any], samples: Any
    ) -> StoredReceipt:
        """Sign and store a receipt at the chain's end, wherever that is by then."""
        assert loaded.head is not None  # told of every run that is there
        try:
            key = await self._app.signing_key(loaded.key)
        except SealBroken as error:
            raise ProcessorError(
                "The signing key cannot be opened here; rotate it: minutehand beacon rotate-key"
            ) from error
        head = loaded.head
        for _ in range(MOST_RACES):
            payload = chained(statement, head, issued_at=self._app.clock.now())
            answer = await self._app.store.issue(job.id, job.fence, key.sign(payload), samples)
            if answer.receipt is not None:
                return answer.receipt
            assert answer.head is not None
            head = answer.head
        raise ProcessorError(f"The chain moved {MOST_RACES} times meanwhile; trying again")

    def _signer(self, job: Job[Any]) -> Signer:
        return Signer(job_id=str(job.id), attempt=job.attempt, software=self._app.software)

    async def _now(self) -> str:
        return self._app.clock.now().isoformat()


def _own(loaded: Loaded, region: str | None) -> StoredReceipt | None:
    """The receipt an earlier attempt issued."""
    return next((receipt for receipt in loaded.receipts if receipt.region == region), None)


def _batch_size(spec: Mapping[str, Any], per_second: float) -> tuple[int, float]:
    """How many samples a batch holds, and how many seconds it takes if every one times out."""
    timeout = spec["timeout_ms"] / 1000
    rounds = max(1, int(BATCH_SECONDS / timeout))
    size = min(BATCH, rounds * spec["concurrency"], max(1, int(BATCH_SECONDS * per_second)))
    return size, -(-size // spec["concurrency"]) * timeout + size / per_second


def _tell(ctx: JobContext, done: int, total: int) -> None:
    ctx.progress(99 * done / total, "sampling", f"{done} of {total} samples")


def register(registry: Registry, settings: Settings, *, app: Beacon | None = None) -> Beacon:
    """Add the app's processors to `registry`; returns what they hold, to be closed at the end."""
    app = app or Beacon(settings)
    processors = Processors(app)
    backoff = Backoff(first=5, cap=300)
    registry.processor("beacon_measure", payload=MeasurePayload, backoff=backoff)(
        processors.measure
    )
    registry.processor("beacon_run", payload=RunPayload, backoff=backoff, internal=True)(
        processors.run
    )
    # a workspace's regions share its worker: more at once would measure the worker
    registry.processor(
        "beacon_region",
        payload=RegionPayload,
        workspace_concurrency=10,
        timeout=840,
        backoff=backoff,
        internal=True,
    )(processors.region)
    return app
