"""Work in other services, which is submitted, polled, fetched or cancelled before a deadline."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from minutehand.queue.errors import ProcessorError

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
A = TypeVar("A")
#: Maximum seconds of a call of a service, even while data of its response still arrives.
CALL_SECONDS = 10.0
#: Seconds of polling after which the job leaves the worker, so that its slot is free.
HOLD_SECONDS = 2.0
FIRST_POLL_SECONDS, MAX_POLL_SECONDS = 0.05, 0.5
#: Maximum seconds to cancel work, by which the work may exceed its deadline. The time includes the
#: wait for the response to the work's submission.
CANCEL_SECONDS = 0.5


class RemoteFailed(Exception):
    """A call of a service failed. The text of the error is for the job's log.

    Attributes:
        said: A sentence for people. The default is the text of the error.
    """

    def __init__(self, message: str, *, said: str | None = None) -> None:
        self.said = said or message
        super().__init__(message)


@dataclass(frozen=True)
class RemoteTask:
    """State of a task in a service."""

    state: Literal["running", "completed", "failed", "cancelled"]
    problem: str | None = None


class Service(Protocol[R_co]):
    """A service that does work for jobs. The service's methods raise RemoteFailed if they fail."""

    @property
    def name(self) -> str:
        """Name of the service, which log lines show."""

    async def submit(self, *, left: float) -> str:
        """Start work that may take `left` seconds, and return its id."""

    async def poll(self, task_id: str) -> RemoteTask:
        """Return the state of the work."""

    async def result(self, task_id: str) -> R_co:
        """Return the result of completed work."""

    async def cancel(self, task_id: str) -> None:
        """Request that the service stops the work."""


@dataclass(frozen=True)
class StillRunning:
    """Work of a service that takes longer than a worker should keep the job.

    The job snoozes, and the job's next attempt polls the service again.
    """

    service: str
    task_id: str


async def run_remote(
    services: Sequence[Service[R]],
    *,
    max_seconds: float,
    left: float,
    resume: StillRunning | None,
    call_seconds: float,
    on_failed: Callable[[str, str], None],
) -> R | StillRunning:
    """Return the result of the first service that succeeds.

    Args:
        services: Services in the order in which they are tried.
        max_seconds: Total seconds for the work.
        left: Seconds that remain for the work.
        resume: Work that an earlier attempt has submitted. The service of the submitted work is
            called first.
        call_seconds: Maximum seconds of a single call.
        on_failed: Function that gets the name and the problem of each failed service.

    Raises:
        ProcessorError: All services failed, or the time is over. If the time is over, the service
            that still works was asked to stop.
    """
    deadline = asyncio.get_running_loop().time() + left
    candidates: list[tuple[Service[R], str | None]] = [(service, None) for service in services]
    if resume is not None:
        candidates[:0] = [
            (service, resume.task_id) for service in services if service.name == resume.service
        ]
    reasons: list[str] = []
    try:
        async with asyncio.timeout(left):
            for service, known in candidates:
                task_id = known
                try:
                    if task_id is None:
                        now = asyncio.get_running_loop().time()
                        task_id = await _submit(service, deadline - now, call_seconds)
                    return await _follow(service, task_id, call_seconds)
                except RemoteFailed as error:
                    on_failed(service.name, str(error))
                    reasons.append(error.said)
                except asyncio.CancelledError:
                    # the time is over, or the job was released. After a release, the next attempt
                    # submits new work.
                    if task_id is not None:
                        await _cancel(service, task_id)
                    raise
    except TimeoutError as error:
        raise ProcessorError(f"no answer within {max_seconds:g} s", retryable=False) from error
    raise ProcessorError("; ".join(reasons) or "no service")


async def _submit(service: Service[R], left: float, call_seconds: float) -> str:
    """Submit work. If `_submit` is cancelled, cancel the work when the service has accepted it."""
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
    """Poll work until it ends, or until the job should leave the worker."""
    elapsed, interval = 0.0, FIRST_POLL_SECONDS
    while True:
        task = await _call(service, service.poll(task_id), call_seconds)
        if task.state == "completed":
            return await _call(service, service.result(task_id), call_seconds)
        if task.state != "running":
            reason = f": {task.problem[:200]}" if task.problem else ""
            raise RemoteFailed(f"{service.name} {task.state} the task{reason}")
        if elapsed >= HOLD_SECONDS:
            return StillRunning(service.name, task_id)
        await asyncio.sleep(interval)
        elapsed, interval = elapsed + interval, min(MAX_POLL_SECONDS, interval * 2)


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
