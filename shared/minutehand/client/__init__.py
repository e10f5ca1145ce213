"""Enqueue and follow jobs from any Python code, on the official `supabase` client.

A watch joins the private Realtime topic, reads what is in the database after that, and merges both
by `seq`: nothing missed, nothing twice. Until Realtime says that messages arrive it reads every
1.5 s (a server from before 2026 never says so, and is believed after 65 s). It looks again 1.5 s
after a join and after news, then ever more rarely, since Realtime drops messages silently above a
plan's rate; once it did, every 1.5 s for a minute. It reads when it sees a gap, joins again after
any close, reads after 30 s of silence, pushes fresh tokens to the socket, and polls when Realtime
is unavailable or refuses the topic. `watcher.freshness` says which of these it does: `live`,
`catching-up`, `polling` or `offline`, and `live` only when it is.
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
    ListedJob,
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
    "ListedJob",
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
