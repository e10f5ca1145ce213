"""The options of a job type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

from minutehand.queue.models import EnqueueOptions, plain
from minutehand.worker.backoff import Backoff
from minutehand.worker.outcomes import Seconds, seconds
from minutehand.worker.wanted import COUNT, FLAG, LENGTH, NAME, Kind, made, one_of, require


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A bucket of `limit` starts that fills within `per`; with `per_key`, one for each key."""

    limit: int
    per: Seconds = 1
    per_key: bool = False

    def __post_init__(self) -> None:
        require("RateLimit", "limit", self.limit, COUNT)
        require("RateLimit", "per", self.per, LENGTH)
        require("RateLimit", "per_key", self.per_key, FLAG)

    def wire(self) -> dict[str, Any]:
        """The limit as `register_job_types` takes it."""
        per = plain(seconds(self.per))
        return {"limit": self.limit, "per_seconds": per, "per_key": self.per_key}


class TypeOptions(TypedDict, total=False):
    """Options of a job type; what is omitted is the database's default."""

    queue: str
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


#: What each of them must be.
_KINDS: Final[Mapping[str, Kind]] = {
    "queue": NAME,
    "max_concurrency": COUNT,
    "workspace_concurrency": COUNT,
    "key_concurrency": COUNT,
    "rate_limit": made(RateLimit, "RateLimit(10, per=60)"),
    "lease": LENGTH,
    "timeout": LENGTH,
    "max_attempts": COUNT,
    "backoff": made(Backoff, "Backoff(first=60, cap=3600)"),
    "events": one_of("full", "minimal"),
    "internal": FLAG,
}


def require_options(job_type: str, options: Mapping[str, Any]) -> None:
    """Refuse options that no type has, and values of another kind.

    Raises:
        TypeError: It names the type and the option.
    """
    for name, value in options.items():
        if (kind := _KINDS.get(name)) is None:
            of_jobs = name in EnqueueOptions.model_fields
            raise TypeError(
                f"the processor of {job_type!r} has no option {name!r}: "
                + ("it is given with each job, at enqueue" if of_jobs else f"it has {_known()}")
            )
        require(repr(job_type), name, value, kind)


def _known() -> str:
    return ", ".join(sorted(_KINDS))
