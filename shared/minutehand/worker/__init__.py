"""The tick: lease, run, report, settle, fan out. Knows no application and no cloud."""

from minutehand.queue.errors import LeaseLost, ProcessorError
from minutehand.queue.models import EnqueueOptions, NewJob
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import (
    ChildrenFailed,
    ChildResult,
    JobContext,
    StepTimeout,
    Suspended,
    TurnEnded,
)
from minutehand.worker.deadlines import TickOptions
from minutehand.worker.fanout import FanOut
from minutehand.worker.graph import Stage, StagesFailed
from minutehand.worker.job import Job
from minutehand.worker.loop import Worker
from minutehand.worker.middleware import Call, Middleware
from minutehand.worker.outcomes import Cancel, Fail, Outcome, Result, Retry, Returned, Snooze
from minutehand.worker.registry import (
    JobType,
    PayloadRejected,
    RateLimit,
    Registry,
    UnknownProcessor,
    around,
    default_registry,
    processor,
)
from minutehand.worker.schedules import Schedule
from minutehand.worker.summary import TickSummary
from minutehand.worker.tick import Tick
from minutehand.worker.trace import current_traceparent, trace_headers

__all__ = [
    "Backoff",
    "Call",
    "Cancel",
    "ChildResult",
    "ChildrenFailed",
    "EnqueueOptions",
    "Fail",
    "FanOut",
    "Job",
    "JobContext",
    "JobType",
    "LeaseLost",
    "Middleware",
    "NewJob",
    "Outcome",
    "PayloadRejected",
    "ProcessorError",
    "RateLimit",
    "Registry",
    "Result",
    "Retry",
    "Returned",
    "Schedule",
    "Snooze",
    "Stage",
    "StagesFailed",
    "StepTimeout",
    "Suspended",
    "Tick",
    "TickOptions",
    "TickSummary",
    "TurnEnded",
    "UnknownProcessor",
    "Worker",
    "around",
    "current_traceparent",
    "default_registry",
    "processor",
    "trace_headers",
]
