"""Enqueue and follow jobs from any Python code, on the official `supabase` client."""

from minutehand.client.access import TokenSource
from minutehand.client.client import Client
from minutehand.client.follow import Freshness
from minutehand.client.watch import FeedWatcher, JobWatcher, Watcher
from minutehand.queue.errors import (
    DuplicateJob,
    InvalidState,
    JobNotFound,
    QueueError,
    QueueUnavailable,
    TokenRefused,
)
from minutehand.queue.models import EnqueueOptions, Job, JobEvent, NewJob, UniqueOptions

__all__ = [
    "Client",
    "DuplicateJob",
    "EnqueueOptions",
    "FeedWatcher",
    "Freshness",
    "InvalidState",
    "Job",
    "JobEvent",
    "JobNotFound",
    "JobWatcher",
    "NewJob",
    "QueueError",
    "QueueUnavailable",
    "TokenRefused",
    "TokenSource",
    "UniqueOptions",
    "Watcher",
]
