"""Durable background jobs for Supabase: the public names for writing processors.

Each name is loaded at its first use, so that a function that only enqueues need not load the
worker.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from minutehand.version import VERSION as __version__

if TYPE_CHECKING:
    from minutehand.worker import (
        Backoff,
        BatchedJob,
        Call,
        Cancel,
        ChildrenFailed,
        EnqueueOptions,
        Fail,
        Job,
        JobContext,
        NewJob,
        Outcome,
        ProcessorError,
        RateLimit,
        Registry,
        Retry,
        Returned,
        Schedule,
        Snooze,
        Stage,
        around,
        processor,
    )

__all__ = [
    "Backoff",
    "BatchedJob",
    "Call",
    "Cancel",
    "ChildrenFailed",
    "EnqueueOptions",
    "Fail",
    "Job",
    "JobContext",
    "NewJob",
    "Outcome",
    "ProcessorError",
    "RateLimit",
    "Registry",
    "Retry",
    "Returned",
    "Schedule",
    "Snooze",
    "Stage",
    "__version__",
    "around",
    "processor",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("minutehand.worker"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
