"""The worker, which leases, runs, reports and settles jobs of any application on any cloud."""

import warnings
from typing import TYPE_CHECKING, Any

from minutehand.queue.errors import LeaseLost as LeaseLost, ProcessorError as ProcessorError
from minutehand.queue.models import EnqueueOptions as EnqueueOptions, NewJob as NewJob
from minutehand.telemetry import trace_headers as trace_headers
from minutehand.worker.backoff import Backoff as Backoff
from minutehand.worker.context import (
    AttemptEnded as AttemptEnded,
    ChildrenFailed as ChildrenFailed,
    ChildResult as ChildResult,
    JobContext as JobContext,
    StepTimeout as StepTimeout,
    Suspended as Suspended,
)
from minutehand.worker.deadlines import FanOut as FanOut, TickOptions as TickOptions
from minutehand.worker.graph import Stage as Stage, StagesFailed as StagesFailed
from minutehand.worker.job import BatchedJob as BatchedJob, Job as Job
from minutehand.worker.loop import Worker as Worker
from minutehand.worker.middleware import Call as Call, Middleware as Middleware
from minutehand.worker.options import RateLimit as RateLimit
from minutehand.worker.outcomes import (
    Cancel as Cancel,
    Fail as Fail,
    Outcome as Outcome,
    Retry as Retry,
    Returned as Returned,
    Snooze as Snooze,
)
from minutehand.worker.registry import (
    JobType as JobType,
    Registry as Registry,
    around as around,
    default_registry as default_registry,
    processor as processor,
)
from minutehand.worker.remote import RemoteFailed as RemoteFailed, RemoteTask as RemoteTask
from minutehand.worker.schedules import Schedule as Schedule
from minutehand.worker.serialization import clean_text as clean_text, is_blank as is_blank
from minutehand.worker.streams import OutputRefused as OutputRefused, Stream as Stream
from minutehand.worker.summary import TickSummary as TickSummary
from minutehand.worker.vendor import (
    RetryAdvice as RetryAdvice,
    VendorCalls as VendorCalls,
    VendorError as VendorError,
    classify_no_response as classify_no_response,
    classify_status as classify_status,
    clock_time as clock_time,
    user_message as user_message,
)

if TYPE_CHECKING:
    #: Former name of AttemptEnded.
    TurnEnded = AttemptEnded
else:

    def __getattr__(name: str) -> Any:
        if name == "TurnEnded":
            text = "TurnEnded is now AttemptEnded; 0.6.0 removes the old name"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            return AttemptEnded
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
