"""Durable background jobs for Supabase: what a processor is written with.

The names are loaded on first use: a function that only enqueues need not load the worker.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from minutehand.version import VERSION as __version__

if TYPE_CHECKING:
    from minutehand.worker import (
        Backoff,
        Cancel,
        Fail,
        Job,
        JobContext,
        RateLimit,
        Retry,
        Schedule,
        Snooze,
        around,
        processor,
    )

__all__ = [
    "Backoff",
    "Cancel",
    "Fail",
    "Job",
    "JobContext",
    "RateLimit",
    "Retry",
    "Schedule",
    "Snooze",
    "__version__",
    "around",
    "processor",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("minutehand.worker"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
