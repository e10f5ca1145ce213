"""The tick: lease, run, report, settle, fan out. Knows no application and no cloud."""

from shared.queue.errors import LeaseLost, ProcessorError
from shared.queue.models import EnqueueOptions, NewJob
from shared.worker.backoff import Backoff
from shared.worker.context import ChildrenFailed, ChildResult, JobContext, Suspended
from shared.worker.fanout import FanOut
from shared.worker.job import Job
from shared.worker.loop import Worker
from shared.worker.moments import TickOptions
from shared.worker.outcomes import Fail, Outcome, Result, Retry, Returned, Snooze
from shared.worker.registry import (
    JobType,
    PayloadRejected,
    RateLimit,
    Registry,
    UnknownProcessor,
    default_registry,
    processor,
)
from shared.worker.summary import TickSummary
from shared.worker.tick import Tick
from shared.worker.trace import current_traceparent, trace_headers

__all__ = [
    "Backoff",
    "ChildResult",
    "ChildrenFailed",
    "EnqueueOptions",
    "Fail",
    "FanOut",
    "Job",
    "JobContext",
    "JobType",
    "LeaseLost",
    "NewJob",
    "Outcome",
    "PayloadRejected",
    "ProcessorError",
    "RateLimit",
    "Registry",
    "Result",
    "Retry",
    "Returned",
    "Snooze",
    "Suspended",
    "Tick",
    "TickOptions",
    "TickSummary",
    "UnknownProcessor",
    "Worker",
    "current_traceparent",
    "default_registry",
    "processor",
    "trace_headers",
]
