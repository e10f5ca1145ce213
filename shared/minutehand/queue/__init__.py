"""The typed client of the queue's SQL functions, and the only package that knows the Data API."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minutehand.queue.client import QueueClient, UserQueue
    from minutehand.queue.errors import QueueError, QueueUnavailable
    from minutehand.queue.models import (
        ENDED,
        EnqueueOptions,
        Job,
        JobEvent,
        JobId,
        NewJob,
        Progress,
    )
    from minutehand.queue.worker_client import WorkerQueue

__all__ = [
    "ENDED",
    "EnqueueOptions",
    "Job",
    "JobEvent",
    "JobId",
    "NewJob",
    "Progress",
    "QueueClient",
    "QueueError",
    "QueueUnavailable",
    "UserQueue",
    "WorkerQueue",
]

#: Where a name is that is not a model.
_MODULES = {
    "QueueClient": "client",
    "UserQueue": "client",
    "QueueError": "errors",
    "QueueUnavailable": "errors",
    "WorkerQueue": "worker_client",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'models')}"), name)
