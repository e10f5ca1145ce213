"""Work that other services do: submitted, polled, fetched and cancelled, all under one deadline.

A service that fails, hangs or drips is left for the next, and reported. How a service is spoken to
is its own; what becomes of its result is the processor's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
A = TypeVar("A")
#: Longest call of a service, however lively its answer comes.
CALL_SECONDS = 10.0
#: Polls before a worker's slot is given back for longer work.
HOLD_SECONDS = 2.0
FIRST_POLL_SECONDS, MOST_POLL_SECONDS = 0.05, 0.5
#: How long a service may take over a cancel, the answer to its submission included; the deadline is
#: kept within a second.
CANCEL_SECONDS = 0.5


class RemoteFailed(Exception):
    """A service did not do its part; the text says what it did instead."""


class NoService(Exception):
    """Every service failed, or there is none; the text lists what they did."""


class OutOfTime(Exception):
    """The deadline passed while a service was at work."""


@dataclass(frozen=True, slots=True)
class RemoteTask:
    """How far a service's work is."""

    state: Literal["running", "completed", "failed", "cancelled"]
    problem: str | None = None


class Service(Protocol[R_co]):
    """One service; each call raises RemoteFailed where it did not do its part."""

    @property
    def name(self) -> str:
        """What reports and notes call it."""

    async def submit(self, *, left: float) -> str:
        """Have it begin, with so many seconds to do it; returns its id of the work."""

    async def poll(self, task_id: str) -> RemoteTask:
        """Ask how far it is."""

    async def result(self, task_id: str) -> R_co:
        """Fetch what completed work gave."""

    async def cancel(self, task_id: str) -> None:
        """Ask it to stop."""


@dataclass(frozen=True, slots=True)
class StillRunning:
    """A service needs longer than a worker should hold the job: snooze, and resume from this."""

    service: str
    task_id: str


@dataclass(slots=True)
class Remote(Generic[R]):
    """One piece of work for one attempt of its job.

    Args:
        services: Asked in this order until one delivers.
        call_seconds: Longest single call.
    """

    services: Sequence[Service[R]]
    call_seconds: float = CALL_SECONDS
    #: How each service that was asked did its part: None when well, else what it did instead.
    reports: dict[str, str | None] = field(default_factory=dict)

    async def run(self, *, left: float, resume: StillRunning | None = None) -> R | StillRunning:
        """Have the work done by the first service that does it, within `left` seconds.

        Raises:
            NoService: None of them did.
            OutOfTime: `left` seconds were over before; the service was asked to stop.
        """
        try:
            async with asyncio.timeout(left):
                return await self._run(left, resume)
        except TimeoutError as error:
            raise OutOfTime(f"no answer within {left:.0f} s") from error

    async def _run(self, left: float, resume: StillRunning | None) -> R | StillRunning:
        ends = asyncio.get_running_loop().time() + left
        failures: list[str] = []
        for service in self.services:
            if resume is None or service.name != resume.service:
                continue
            try:
                return await self._follow(service, resume.task_id)
            except RemoteFailed as error:
                failures.append(self._failed(service, error))
        for service in self.services:
            remaining = ends - asyncio.get_running_loop().time()
            try:
                task_id = await self._submit(service, remaining)
                return await self._follow(service, task_id)
            except RemoteFailed as error:
                failures.append(self._failed(service, error))
        raise NoService("; ".join(failures))

    async def _submit(self, service: Service[R], left: float) -> str:
        """Submit; when stopped meanwhile, cancel what the service still accepts."""
        accepted = asyncio.ensure_future(service.submit(left=left))
        try:
            return await self._call(service, asyncio.shield(accepted))
        except asyncio.CancelledError:
            with suppress(RemoteFailed, TimeoutError):
                async with asyncio.timeout(CANCEL_SECONDS):
                    await service.cancel(await accepted)
            raise
        finally:
            accepted.cancel()

    async def _follow(self, service: Service[R], task_id: str) -> R | StillRunning:
        """Poll work to its end, or as long as a worker should hold the job."""
        try:
            held, pause = 0.0, FIRST_POLL_SECONDS
            while True:
                task = await self._call(service, service.poll(task_id))
                if task.state == "completed":
                    result = await self._call(service, service.result(task_id))
                    self.reports[service.name] = None
                    return result
                if task.state in {"failed", "cancelled"}:
                    reason = f": {task.problem[:200]}" if task.problem else ""
                    raise RemoteFailed(f"{service.name} {task.state} the task{reason}")
                if held >= HOLD_SECONDS:
                    return StillRunning(service.name, task_id)
                await asyncio.sleep(pause)
                held, pause = held + pause, min(MOST_POLL_SECONDS, pause * 2)
        except asyncio.CancelledError:
            # out of time, or the job was released: another attempt submits again
            with suppress(RemoteFailed, TimeoutError):
                async with asyncio.timeout(CANCEL_SECONDS):
                    await service.cancel(task_id)
            raise

    async def _call(self, service: Service[R], call: Awaitable[A]) -> A:
        slow = RemoteFailed(f"{service.name} took longer than {self.call_seconds:g} s to answer")
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.call_seconds):
                return await call
        except TimeoutError as error:
            raise slow from error
        except asyncio.CancelledError:
            # stopped while it hung: the next attempt must not ask it first again
            if asyncio.get_running_loop().time() - began >= self.call_seconds / 4:
                self._failed(service, slow)
            raise

    def _failed(self, service: Service[R], error: RemoteFailed) -> str:
        self.reports[service.name] = str(error)
        return str(error)
