"""The options of a job type."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

from minutehand.queue.models import compact_number
from minutehand.worker.backoff import Backoff
from minutehand.worker.option_checks import Name, check_options
from minutehand.worker.outcomes import Seconds, seconds


@dataclass(frozen=True)
class RateLimit:
    """Token bucket of a job type, or of each key, that allows `limit` job starts within `per`."""

    limit: int
    per: Seconds = 1
    per_key: bool = False

    def __post_init__(self) -> None:
        check_options("RateLimit", RateLimit, asdict(self))

    def to_json(self) -> dict[str, Any]:
        """Return the rate limit in the format of `register_job_types`."""
        per = compact_number(seconds(self.per))
        return {"limit": self.limit, "per_seconds": per, "per_key": self.per_key}


class TypeOptions(TypedDict, total=False):
    """Options of a job type. The database's default applies to an omitted option."""

    queue: Name
    #: Maximum running jobs of the type over all workers, per workspace, and per `concurrency_key`
    #: of a workspace.
    max_concurrency: int
    workspace_concurrency: int
    key_concurrency: int
    rate_limit: RateLimit
    #: Time without a report, after which the worker's lease on the job expires. Default: 60 s.
    lease: Seconds
    #: Maximum duration of one attempt. Default: 300 s.
    timeout: Seconds
    #: Maximum attempts of a job. A job whose last attempt fails is a dead letter. Default: 5.
    max_attempts: int
    backoff: Backoff
    #: `minimal` stores no events of a job's creation and lease. Choose `minimal` for a job type
    #: with very many jobs.
    events: Literal["full", "minimal"]
    #: True if only the platform's own code may enqueue jobs of this type.
    internal: bool
