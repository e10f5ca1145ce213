"""The typed client of the queue's SQL functions, and the only package that knows the Data API.

The names are loaded on first use: the command needs an address and no model, and starts sooner.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        Cursor,
        Enqueued,
        EnqueuedBatch,
        EnqueueOptions,
        Explanation,
        FeedPage,
        GuestSession,
        Job,
        JobEvent,
        JobId,
        JobLog,
        JobPage,
        JobSteps,
        ListedJob,
        LogPage,
        NewJob,
        Progress,
        QueueHealth,
        QueueStats,
        Status,
        UniqueOptions,
        WorkspaceId,
    )
    from minutehand.queue.worker_client import WorkerQueue

__all__ = [
    "ENDED",
    "BackoffOptions",
    "ConfigurationError",
    "Cursor",
    "DataApi",
    "DuplicateJob",
    "EnqueueOptions",
    "Enqueued",
    "EnqueuedBatch",
    "Explanation",
    "FeedPage",
    "GuestSession",
    "InvalidState",
    "Job",
    "JobEvent",
    "JobId",
    "JobLog",
    "JobNotFound",
    "JobPage",
    "JobServiceError",
    "JobSteps",
    "LeaseLost",
    "ListedJob",
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
    "TokenRefused",
    "UniqueOptions",
    "UserQueue",
    "WorkerQueue",
    "WorkspaceId",
]

#: Where a name is that is not a model.
_MODULES = {
    "QueueClient": "client",
    "UserQueue": "client",
    "DataApi": "data_api",
    "ConfigurationError": "errors",
    "DuplicateJob": "errors",
    "InvalidState": "errors",
    "JobNotFound": "errors",
    "JobServiceError": "errors",
    "LeaseLost": "errors",
    "ProcessorError": "errors",
    "QueueError": "errors",
    "QueueUnavailable": "errors",
    "TokenRefused": "errors",
    "WorkerQueue": "worker_client",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, 'models')}")
    value = globals()[name] = getattr(module, name)
    return value
