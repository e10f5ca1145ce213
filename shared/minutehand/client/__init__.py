"""Enqueue and follow jobs from any Python code, on the official `supabase` client.

A watch joins the private Realtime topic, reads what is in the database after that, and merges both
by `seq`: nothing missed, nothing twice. It reads again when it sees a gap, joins again after any
close, reads after 30 s of silence, pushes fresh tokens to the socket, and polls when Realtime is
away or refuses the topic. `watcher.freshness` says which of these it does: `live`, `catching-up`,
`polling` or `offline`, and `live` only when it is.
"""

from minutehand.client.access import TokenSource
from minutehand.client.client import Client, JobFilter, Options, SyncClient
from minutehand.client.follower import Freshness, Timing, Watcher
from minutehand.client.watch import FeedWatcher, JobWatcher
from minutehand.queue.errors import (
    DuplicateJob,
    InvalidState,
    JobNotFound,
    QueueError,
    QueueUnavailable,
    TokenRefused,
)
from minutehand.queue.models import (
    BackoffOptions,
    Enqueued,
    EnqueuedBatch,
    EnqueueOptions,
    Explanation,
    Job,
    JobEvent,
    JobPage,
    NewJob,
    Progress,
    UniqueOptions,
)

__all__ = [
    "BackoffOptions",
    "Client",
    "DuplicateJob",
    "EnqueueOptions",
    "Enqueued",
    "EnqueuedBatch",
    "Explanation",
    "FeedWatcher",
    "Freshness",
    "InvalidState",
    "Job",
    "JobEvent",
    "JobFilter",
    "JobNotFound",
    "JobPage",
    "JobWatcher",
    "NewJob",
    "Options",
    "Progress",
    "QueueError",
    "QueueUnavailable",
    "SyncClient",
    "Timing",
    "TokenRefused",
    "TokenSource",
    "UniqueOptions",
    "Watcher",
]
