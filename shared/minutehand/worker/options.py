"""The options of a job type."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

from minutehand.queue.models import compact_number
from minutehand.worker.backoff import Backoff
from minutehand.worker.option_checks import Name, check_options
from minutehand.worker.outcomes import Seconds, seconds


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A bucket of `limit` starts that fills within `per`; with `per_key`, one for each key."""

    limit: int
    per: Seconds = 1
    per_key: bool = False

    def __post_init__(self) -> None:
        check_options("RateLimit", RateLimit, asdict(self))

    def wire(self) -> dict[str, Any]:
        """The limit as `register_job_types` takes it."""
        per = compact_number(seconds(self.per))
        return {"limit": self.limit, "per_seconds": per, "per_key": self.per_key}


class TypeOptions(TypedDict, total=False):
    """Options of a job type; what is omitted is the database's default."""

    queue: Name
    #: Most jobs of the type running at once, over all workers; the same for each workspace, and
    #: for each `concurrency_key` of a workspace.
    max_concurrency: int
    workspace_concurrency: int
    key_concurrency: int
    rate_limit: RateLimit
    #: How long a silent worker keeps the job: 60 s. Renewed while it runs.
    lease: Seconds
    #: Longest run of one attempt, enforced: 300 s.
    timeout: Seconds
    #: Attempts before the job is a dead letter: 5.
    max_attempts: int
    backoff: Backoff
    #: `minimal` omits the events of creation and lease, for large numbers of jobs.
    events: Literal["full", "minimal"]
    #: Only the platform's own code makes such jobs: a person's enqueue is refused.
    internal: bool
