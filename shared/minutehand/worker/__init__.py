"""The worker: lease, run, report, settle and fan out, for any application and cloud."""

import warnings
from typing import TYPE_CHECKING, Any

from minutehand.queue.errors import LeaseLost as LeaseLost
from minutehand.queue.errors import ProcessorError as ProcessorError
from minutehand.queue.models import EnqueueOptions as EnqueueOptions
from minutehand.queue.models import NewJob as NewJob
from minutehand.telemetry import trace_headers as trace_headers
from minutehand.worker.backoff import Backoff as Backoff
from minutehand.worker.context import AttemptEnded as AttemptEnded
from minutehand.worker.context import ChildrenFailed as ChildrenFailed
from minutehand.worker.context import ChildResult as ChildResult
from minutehand.worker.context import JobContext as JobContext
from minutehand.worker.context import StepTimeout as StepTimeout
from minutehand.worker.context import Suspended as Suspended
from minutehand.worker.deadlines import FanOut as FanOut
from minutehand.worker.deadlines import TickOptions as TickOptions
from minutehand.worker.graph import Stage as Stage
from minutehand.worker.graph import StagesFailed as StagesFailed
from minutehand.worker.job import BatchedJob as BatchedJob
from minutehand.worker.job import Job as Job
from minutehand.worker.loop import Worker as Worker
from minutehand.worker.middleware import Call as Call
from minutehand.worker.middleware import Middleware as Middleware
from minutehand.worker.options import RateLimit as RateLimit
from minutehand.worker.outcomes import Cancel as Cancel
from minutehand.worker.outcomes import Fail as Fail
from minutehand.worker.outcomes import Outcome as Outcome
from minutehand.worker.outcomes import Retry as Retry
from minutehand.worker.outcomes import Returned as Returned
from minutehand.worker.outcomes import Snooze as Snooze
from minutehand.worker.registry import JobType as JobType
from minutehand.worker.registry import Registry as Registry
from minutehand.worker.registry import around as around
from minutehand.worker.registry import default_registry as default_registry
from minutehand.worker.registry import processor as processor
from minutehand.worker.remote import RemoteFailed as RemoteFailed
from minutehand.worker.remote import RemoteTask as RemoteTask
from minutehand.worker.schedules import Schedule as Schedule
from minutehand.worker.serialization import clean_text as clean_text
from minutehand.worker.serialization import is_blank as is_blank
from minutehand.worker.streams import OutputRefused as OutputRefused
from minutehand.worker.streams import Stream as Stream
from minutehand.worker.summary import TickSummary as TickSummary
from minutehand.worker.vendor import RetryAdvice as RetryAdvice
from minutehand.worker.vendor import VendorCalls as VendorCalls
from minutehand.worker.vendor import VendorError as VendorError
from minutehand.worker.vendor import classify_no_response as classify_no_response
from minutehand.worker.vendor import classify_status as classify_status
from minutehand.worker.vendor import clock_time as clock_time
from minutehand.worker.vendor import user_message as user_message

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
