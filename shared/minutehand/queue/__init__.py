"""The typed client of the queue's SQL functions, and the only room that knows the Data API."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from minutehand.queue.client import QueueClient, UserQueue
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import (
    ConfigurationError,
    DuplicateJob,
    InvalidState,
    JobNotFound,
    JobServiceError,
    LeaseLost,
    ProcessorError,
    QueueError,
    QueueUnavailable,
    TokenRefused,
)
from minutehand.queue.models import (
    ENDED,
    BackoffOptions,
    BulkResult,
    Cursor,
    Enqueued,
    EnqueuedBatch,
    EnqueueOptions,
    Explanation,
    FeedPage,
    Job,
    JobEvent,
    JobId,
    JobLog,
    JobPage,
    JobSteps,
    LogPage,
    NewJob,
    Progress,
    QueueHealth,
    QueueStats,
    Status,
    UniqueOptions,
    Visit,
    WorkspaceId,
)
from minutehand.queue.worker_client import WorkerQueue

if TYPE_CHECKING:
    from minutehand.queue.watch import (
        FeedWatcher,
        Freshness,
        JobWatcher,
        Timing,
        watch_job,
        watch_session,
        watch_workspace,
    )

__all__ = [
    "ENDED",
    "BackoffOptions",
    "BulkResult",
    "ConfigurationError",
    "Cursor",
    "DataApi",
    "DuplicateJob",
    "EnqueueOptions",
    "Enqueued",
    "EnqueuedBatch",
    "Explanation",
    "FeedPage",
    "FeedWatcher",
    "Freshness",
    "InvalidState",
    "Job",
    "JobEvent",
    "JobId",
    "JobLog",
    "JobNotFound",
    "JobPage",
    "JobServiceError",
    "JobSteps",
    "JobWatcher",
    "LeaseLost",
    "LogPage",
    "NewJob",
    "ProcessorError",
    "Progress",
    "QueueClient",
    "QueueError",
    "QueueHealth",
    "QueueStats",
    "QueueUnavailable",
    "Status",
    "Timing",
    "TokenRefused",
    "UniqueOptions",
    "UserQueue",
    "Visit",
    "WorkerQueue",
    "WorkspaceId",
    "watch_job",
    "watch_session",
    "watch_workspace",
]

#: Imported when first asked for: no Lambda watches, and each pays for every module it imports.
_OF_WATCH = frozenset(
    {
        "FeedWatcher",
        "Freshness",
        "JobWatcher",
        "Timing",
        "watch_job",
        "watch_session",
        "watch_workspace",
    }
)


def __getattr__(name: str) -> Any:
    if name in _OF_WATCH:
        return getattr(import_module("minutehand.queue.watch"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
