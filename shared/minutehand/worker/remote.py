"""Work that other services do: submitted, polled, fetched and cancelled, all under one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from minutehand.queue.errors import ProcessorError

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
A = TypeVar("A")
#: Longest call of a service, however lively its answer comes.
CALL_SECONDS = 10.0
#: Time of polling after which a worker's slot is released for longer work.
HOLD_SECONDS = 2.0
FIRST_POLL_SECONDS, MOST_POLL_SECONDS = 0.05, 0.5
#: How long a service may take over a cancel, the answer to its submission included; the deadline is
#: kept within a second.
CANCEL_SECONDS = 0.5


class RemoteFailed(Exception):
    """A service did not do its part; the text says what it did instead, for the job's log.

    Attributes:
        said: The same in a sentence for people; the text, where there is none.
    """

    def __init__(self, problem: str, *, said: str | None = None) -> None:
        self.said = said or problem
        super().__init__(problem)


@dataclass(frozen=True, slots=True)
class RemoteTask:
    """How far a service's work is."""

    state: Literal["running", "completed", "failed", "cancelled"]
    problem: str | None = None


class Service(Protocol[R_co]):
    """One service; each call raises RemoteFailed where it did not do its part."""

    @property
    def name(self) -> str:
        """What reports call it."""

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


async def have_done(
    services: Sequence[Service[R]],
    *,
    within: float,
    left: float,
    resume: StillRunning | None,
    call_seconds: float,
    on_failed: Callable[[str, str], None],
) -> R | StillRunning:
    """Have the work done by the first service that does it.

    Args:
        within: Seconds for it in all, of which `left` are left.
        resume: Work that was left with a service, which is asked first.
        on_failed: Gets the name and the problem of each service that did not do its part.

    Raises:
        ProcessorError: None of them did, or the time was over before; the service at work
            was asked to stop.
    """
    ends = asyncio.get_running_loop().time() + left
    turns: list[tuple[Service[R], str | None]] = [(each, None) for each in services]
    if resume is not None:
        turns[:0] = [(each, resume.task_id) for each in services if each.name == resume.service]
    reasons: list[str] = []
    try:
        async with asyncio.timeout(left):
            for service, known in turns:
                task_id = known
                try:
                    if task_id is None:
                        now = asyncio.get_running_loop().time()
                        task_id = await _submit(service, ends - now, call_seconds)
                    return await _follow(service, task_id, call_seconds)
                except RemoteFailed as error:
                    on_failed(service.name, str(error))
                    reasons.append(error.said)
                except asyncio.CancelledError:
                    # out of time, or the job was released: another attempt submits again
                    if task_id is not None:
                        await _cancel(service, task_id)
                    raise
    except TimeoutError as error:
        raise ProcessorError(f"no answer within {within:g} s", retryable=False) from error
    raise ProcessorError("; ".join(reasons) or "no service")


async def _submit(service: Service[R], left: float, call_seconds: float) -> str:
    """Submit; when stopped meanwhile, cancel what the service still accepts."""
    accepted = asyncio.ensure_future(service.submit(left=left))
    try:
        return await _call(service, asyncio.shield(accepted), call_seconds)
    except asyncio.CancelledError:
        with suppress(RemoteFailed, TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await service.cancel(await accepted)
        raise
    finally:
        accepted.cancel()


async def _follow(service: Service[R], task_id: str, call_seconds: float) -> R | StillRunning:
    """Poll work to its end, or as long as a worker should hold the job."""
    held, pause = 0.0, FIRST_POLL_SECONDS
    while True:
        task = await _call(service, service.poll(task_id), call_seconds)
        if task.state == "completed":
            return await _call(service, service.result(task_id), call_seconds)
        if task.state != "running":
            reason = f": {task.problem[:200]}" if task.problem else ""
            raise RemoteFailed(f"{service.name} {task.state} the task{reason}")
        if held >= HOLD_SECONDS:
            return StillRunning(service.name, task_id)
        await asyncio.sleep(pause)
        held, pause = held + pause, min(MOST_POLL_SECONDS, pause * 2)


async def _cancel(service: Service[R], task_id: str) -> None:
    with suppress(RemoteFailed, TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS):
            await service.cancel(task_id)


async def _call(service: Service[R], call: Awaitable[A], call_seconds: float) -> A:
    try:
        async with asyncio.timeout(call_seconds):
            return await call
    except TimeoutError as error:
        text = f"{service.name} took longer than {call_seconds:g} s to answer"
        raise RemoteFailed(text) from error
