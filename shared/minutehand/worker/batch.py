"""Batches of jobs, which one call of a processor runs together.

Each job of a batch has its own attempt, which gets the outcome of the job. The attempts share only
the call of the processor. Each attempt has its own limits, lease, deadline, cancellation,
middleware and settlement. If a call raises, or runs until the timeout of one of its jobs, the
processor is called for each half of the jobs. The halving ends when each job that causes the
failure is alone in its call.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from minutehand.queue.errors import ProcessorError
from minutehand.queue.models import JobId
from minutehand.worker.context import AttemptEnded, Suspended, restart_job
from minutehand.worker.errors import first_of
from minutehand.worker.job import BatchedJob
from minutehand.worker.middleware import calling
from minutehand.worker.outcomes import retry_after_of

logger = logging.getLogger(__name__)

#: Numbers of batches, because a later batch may have the same first job.
_numbers = count(1)


class _End(NamedTuple):
    """Outcome of one job. The stack frames are stored per job, because jobs may share an error."""

    value: Any = None
    error: BaseException | None = None
    frames: TracebackType | None = None


class MemberAttempt(Protocol):
    """Methods of a job's attempt that its batch calls."""

    def stop_requested(self) -> bool:
        """Return whether the processor must end."""

    def start_timeout(self) -> None:
        """Start the timer for the timeout, or stop the attempt if the job's deadline has passed."""

    def end_timeout(self) -> None:
        """Stop the timer for the timeout, because the job waits for another call."""


@dataclass(eq=False)
class _Member:
    job: BatchedJob[Any]
    attempt: MemberAttempt
    end: asyncio.Future[_End]
    #: True if the attempt was stopped, so that it no longer waits for the call.
    has_left: bool = False

    @property
    def is_active(self) -> bool:
        return not (self.has_left or self.attempt.stop_requested())


class Batch:
    """Runs jobs of one tenant in one call of a processor, or in several calls for some of the jobs.

    Args:
        job_ids: Ids of the jobs. The attempt of each job calls `join`, unless the attempt ends
            first.
    """

    def __init__(
        self, run: Callable[..., Any], job_ids: Collection[JobId], *, in_thread: bool
    ) -> None:
        self._run = run
        self._in_thread = in_thread
        #: Name of the thread that runs a synchronous processor. Each call has its own thread name.
        self.thread_name = self._name = f"batch:{next(iter(job_ids))}:{next(_numbers)}"
        #: Task of the current call. The first call starts when each attempt has called `join` or
        #: ended.
        self.task: asyncio.Task[None] | None = None
        self._is_cancelled = False
        #: True if the current call has run until the timeout of one of its jobs.
        self._is_expired = False
        #: Jobs in the current call of the processor. Before the first call, the field contains the
        #: jobs whose attempts have called `join`.
        self._members: list[_Member] = []
        self._calls = 0
        #: Jobs of each later call of the processor. The next call of the processor runs the last
        #: list.
        self._parts: list[Sequence[_Member]] = []
        self._expected = set(job_ids)
        self._alive = len(job_ids)

    @property
    def has_ended(self) -> bool:
        """True if all attempts of the batch have ended."""
        return self._alive == 0

    @property
    def others(self) -> int | None:
        """Number of jobs in the current call besides one job, or None if the job is alone."""
        return len(self._members) - 1 or None

    async def join(self, job: BatchedJob[Any], attempt: MemberAttempt) -> Any:
        """Run this job as a part of the batch, and return its result or raise its error.

        A stopped job leaves the call, which continues for the other jobs. When all jobs of a call
        are stopped, the call is cancelled. The last stopped job then waits until the call has
        ended.
        """
        member = _Member(job, attempt, asyncio.get_running_loop().create_future())
        self._members.append(member)
        self._expected.discard(job.id)
        self._start()
        try:
            end = await asyncio.shield(member.end)
        except asyncio.CancelledError:
            member.has_left = True
            call = self.task
            is_last = not any(member.is_active for member in self._members)
            if call is None or member not in self._members or not is_last:
                raise
            if not self._is_cancelled:
                self._is_cancelled = call.cancel()
            try:
                end = await asyncio.shield(member.end)
            except asyncio.CancelledError:
                call.cancel()  # the attempt is abandoned
                raise
        if end.error is not None:
            raise end.error.with_traceback(end.frames)
        return end.value

    def ended(self, job_id: JobId, *, is_abandoned: bool) -> None:
        """Record the end of an attempt. An attempt may end before its job has joined the batch."""
        self._alive -= 1
        self._expected.discard(job_id)
        self._start()
        if is_abandoned and not any(member.is_active for member in self._members):
            self._call_next([])  # start the next call while the abandoned call still runs

    def halve_expired_call(self, job_id: JobId) -> asyncio.Task[None] | None:
        """Stop the current call, because it has run until the timeout of this job.

        Return the stopped call. After the call's end, the processor is called for each half of the
        call's jobs. Return None if the call has no other job, or does not contain this job.
        """
        call, active = self.task, [member for member in self._members if member.is_active]
        is_in = any(member.job.id == job_id and not member.end.done() for member in active)
        if call is None or not is_in or not (self._is_expired or len(active) > 1):
            return None
        if not self._is_expired:
            self._is_expired = True
            call.cancel()
        return call

    def abandon(self, call: asyncio.Task[None]) -> bool:
        """Call the processor for each half of a hung call's jobs.

        Return False if the call has ended.
        """
        if call is not self.task or call.done():
            return False
        call.cancel()
        self._call_halves(None)
        return True

    def _start(self) -> None:
        if not self._expected and self.task is None:
            self._call_next([self._members])

    def _call_next(self, parts: Sequence[Sequence[_Member]]) -> None:
        """Call the processor for the first list of jobs in `parts`.

        When this call has ended, calls for the other lists follow.
        """
        self._parts += reversed(parts)
        while self._parts:
            part = self._parts.pop()
            for member in part:
                if member.is_active:
                    member.attempt.start_timeout()
            self._members = part = [member for member in part if member.is_active]
            if part:
                self._is_cancelled = self._is_expired = False
                self._calls += 1
                self.thread_name = f"{self._name}:{self._calls}"
                self.task = asyncio.get_running_loop().create_task(self._call(part))
                return

    async def _call(self, members: Sequence[_Member]) -> None:
        jobs = [member.job for member in members]
        run = calling(self._run, jobs, thread=self.thread_name if self._in_thread else None)
        has_returned = False
        try:
            results = await run()
            has_returned = True
            outcomes = [_end(value) for value in _check_results(results, jobs)]
        except BaseException as error:
            concerns_all = not self._is_expired and (self._is_cancelled or _concerns_all(error))
            # a list of the wrong length is a defect of the processor, which calls for halves would
            # repeat
            can_halve = len(jobs) > 1 and not (has_returned or concerns_all)
            if can_halve and asyncio.current_task() is self.task:
                self._call_halves(error)
                return
            outcomes = [_end(_error_for_all(error))] * len(jobs)
        if asyncio.current_task() is not self.task:
            return  # the call was abandoned, so other calls run its jobs
        for member, end in zip(members, outcomes, strict=True):
            member.end.set_result(end)
        self._call_next([])

    def _call_halves(self, error: BaseException | None) -> None:
        """Call the processor for each half of the current call's jobs.

        The error of the current call does not fail a job.
        """
        members, reason = self._members, "hung" if self._is_expired else "raised"
        extra = {"event": "batch.halved", "jobs": len(members), "problem": reason}
        logger.warning(
            "A batch %s and is run again in halves",
            reason,
            extra=extra | {"job_type": members[0].job.job_type},
            exc_info=error,
        )
        for member in members:
            member.attempt.end_timeout()
            restart_job(member.job.ctx)
        middle = (len(members) + 1) // 2
        self._call_next([members[:middle], members[middle:]])


def _check_results(results: Any, jobs: Sequence[BatchedJob[Any]]) -> Sequence[Any]:
    is_list = isinstance(results, Sequence) and not isinstance(results, str | bytes | bytearray)
    if is_list and len(results) == len(jobs):
        return list(results)
    description = f"{len(results)} results" if is_list else type(results).__name__
    raise ProcessorError(
        f"a processor of batches must return a list with one result for each job, in their order: "
        f"{jobs[0].job_type!r} was given {len(jobs)} jobs and returned {description}"
    )


def _end(value: Any) -> _End:
    if isinstance(value, BaseException):
        return _End(error=value, frames=value.__traceback__)
    return _End(value)


def _concerns_all(error: BaseException) -> bool:
    """Return whether an error concerns all jobs of a call.

    The result is true if the processor chose the outcome by an exception, or if the error requests
    a wait, as an error of a rate limit does.
    """
    first = first_of(error)
    # test the type, because an object may report another class
    is_control_flow = issubclass(type(first), (Suspended, AttemptEnded, asyncio.CancelledError))
    return is_control_flow or retry_after_of(first) is not None


def _error_for_all(error: BaseException) -> BaseException:
    """Return the error that each job of a call gets if the call raised."""
    if not isinstance(error, Suspended):
        return error
    wrong = ProcessorError(
        "a wait of one job must not end the call for other jobs; return it as its result, as "
        "asyncio.gather(…, return_exceptions=True) does",
        retryable=False,
    )
    wrong.__cause__ = error
    return wrong
