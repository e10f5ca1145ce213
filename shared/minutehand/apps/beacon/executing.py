"""One execution: choose a provider by health, submit, poll, read the answers, fail over.

What becomes of the answers is the processor's; how a provider is spoken to, the client's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from minutehand.apps.beacon.models import (
    DEFAULT_MODEL,
    ExecutionRow,
    JobSpec,
    Output,
    ProviderHealth,
)
from minutehand.apps.beacon.provider_client import ProviderClient, ProviderFailed
from minutehand.apps.beacon.responses import OutputRejected, read_output
from minutehand.apps.beacon.settings import Provider
from minutehand.apps.beacon.store import ProviderReport

#: Polls before a worker's slot is given back for longer work.
HOLD_SECONDS = 2.0
FIRST_POLL_SECONDS, MOST_POLL_SECONDS = 0.05, 0.5
#: How long the provider may take to accept a cancel.
CANCEL_SECONDS = 2.0


class NoProvider(Exception):
    """Every provider of the region failed, or there is none; the text lists what they did.

    Attributes:
        none_at_all: No provider serves the region, so that another attempt would not help.
    """

    def __init__(self, message: str, *, none_at_all: bool = False) -> None:
        self.none_at_all = none_at_all
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """What a provider gave."""

    provider: str
    model: str
    output: Output


@dataclass(frozen=True, slots=True)
class StillRunning:
    """A provider needs longer than a worker should hold the job."""

    provider: str
    task_id: str


def by_health(
    providers: Sequence[Provider], health: Sequence[ProviderHealth], *, now: datetime
) -> list[Provider]:
    """Order a region's providers: the healthy in their own order, then those that kept failing."""
    known = {each.provider: each for each in health}

    def is_open(provider: Provider) -> bool:
        until = known[provider.name].open_until if provider.name in known else None
        return until is not None and until > now

    return sorted(providers, key=is_open)


@dataclass(slots=True)
class Executor:
    """Runs one execution for one attempt of its job.

    Args:
        note: Called with provider and task when work is left with a provider for longer.
        health: What is known of the region's providers.
    """

    client: ProviderClient
    execution: ExecutionRow
    spec: JobSpec
    health: Sequence[ProviderHealth]
    note: Callable[[str | None, str | None], Awaitable[None]]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    reports: dict[str, ProviderReport] = field(default_factory=dict)

    async def run(
        self, serving: Sequence[Provider], *, timeout_seconds: float
    ) -> ProviderAnswer | StillRunning:
        """Have the questions answered by the first provider that does.

        Raises:
            NoProvider: None of them did.
        """
        if not serving:
            raise NoProvider(
                f"no provider serves the region {self.execution.region}", none_at_all=True
            )
        failures: list[str] = []
        noted = next((each for each in serving if each.name == self.execution.provider), None)
        if noted is not None and self.execution.provider_task is not None:
            try:
                return await self._follow(noted, self.execution.provider_task)
            except (ProviderFailed, OutputRejected) as error:
                failures.append(self._failed(noted, error))
                await self.note(None, None)
        for provider in by_health(serving, self.health, now=self.now()):
            try:
                task = await self.client.submit(
                    provider, self.execution, self.spec, timeout_seconds=timeout_seconds
                )
                return await self._follow(provider, task.task_id)
            except (ProviderFailed, OutputRejected) as error:
                failures.append(self._failed(provider, error))
        raise NoProvider("; ".join(failures))

    async def _follow(self, provider: Provider, task_id: str) -> ProviderAnswer | StillRunning:
        """Poll a task to its end, or as long as a worker should hold the job."""
        try:
            held, pause = 0.0, FIRST_POLL_SECONDS
            while True:
                task = await self.client.poll(provider, task_id)
                if task.status == "completed":
                    return await self._read(provider, task_id)
                if task.status in {"failed", "cancelled"}:
                    reason = f": {task.error[:200]}" if task.error else ""
                    raise ProviderFailed(f"{provider.name} {task.status} the task{reason}")
                if held >= HOLD_SECONDS:
                    if self.execution.provider_task != task_id:
                        await self.note(provider.name, task_id)
                    return StillRunning(provider.name, task_id)
                await asyncio.sleep(pause)
                held, pause = held + pause, min(MOST_POLL_SECONDS, pause * 2)
        except asyncio.CancelledError:
            # a released job submits again: the protocol then begins a new task
            with suppress(ProviderFailed, TimeoutError):
                async with asyncio.timeout(CANCEL_SECONDS):
                    await self.client.cancel(provider, task_id)
            raise

    async def _read(self, provider: Provider, task_id: str) -> ProviderAnswer:
        result = await self.client.result(provider, task_id)
        asked = self.execution
        if result.task_id != task_id or result.execution_id != str(asked.id):
            raise ProviderFailed(f"{provider.name} gave the result of another execution")
        if result.region != asked.region:
            raise ProviderFailed(
                f"{provider.name} ran in region {result.region[:63]!r}, not {asked.region!r}"
            )
        if asked.model not in {result.model, DEFAULT_MODEL}:
            raise ProviderFailed(f"{provider.name} ran {result.model!r}, not {asked.model!r}")
        try:
            output = read_output(result.data, self.spec)
        except OutputRejected as error:
            raise OutputRejected(f"{provider.name}: {error}") from error
        if any(each.provider == provider.name and each.failures == 0 for each in self.health):
            self.reports.pop(provider.name, None)  # known to be healthy: nothing to report
        else:
            self._report(provider, ok=True)
        return ProviderAnswer(provider.name, result.model, output)

    def _failed(self, provider: Provider, error: Exception) -> str:
        self._report(provider, ok=False, error=str(error))
        return str(error)

    def _report(self, provider: Provider, *, ok: bool, error: str | None = None) -> None:
        self.reports[provider.name] = ProviderReport(
            provider=provider.name, region=self.execution.region, ok=ok, error=error
        )
