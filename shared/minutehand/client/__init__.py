"""Enqueue and follow jobs from any Python code, on the official `supabase` client."""

from minutehand.client.access import TokenSource as TokenSource
from minutehand.client.client import Client as Client
from minutehand.client.follow import Freshness as Freshness
from minutehand.client.watch import FeedWatcher as FeedWatcher
from minutehand.client.watch import JobWatcher as JobWatcher
from minutehand.client.watch import Watcher as Watcher
from minutehand.queue.errors import DuplicateJob as DuplicateJob
from minutehand.queue.errors import InvalidState as InvalidState
from minutehand.queue.errors import JobNotFound as JobNotFound
from minutehand.queue.errors import QueueError as QueueError
from minutehand.queue.errors import QueueUnavailable as QueueUnavailable
from minutehand.queue.errors import RateLimited as RateLimited
from minutehand.queue.errors import TokenRefused as TokenRefused
from minutehand.queue.models import EnqueueOptions as EnqueueOptions
from minutehand.queue.models import Job as Job
from minutehand.queue.models import JobEvent as JobEvent
from minutehand.queue.models import NewJob as NewJob
from minutehand.queue.models import UniqueOptions as UniqueOptions
