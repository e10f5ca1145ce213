"""Enqueue and follow jobs from any Python code, on the official `supabase` client.

A watch joins the private Realtime topic, reads what is in the database after that, and merges both
by `seq`: nothing missed, nothing twice. It polls while Realtime is unavailable or brings nothing,
and `watcher.freshness` says which of these it does: `live`, `catching-up`, `polling`, `offline`.
"""

from minutehand.client.access import TokenSource
from minutehand.client.client import Client, SyncClient
from minutehand.client.follow import Freshness, Timing
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
    "SyncClient",
    "Timing",
    "TokenRefused",
    "TokenSource",
    "UniqueOptions",
    "Watcher",
]
