"""The wait before the next attempt of a job.

The worker publishes a job type's backoff policy, and the database applies it.
"""

from dataclasses import asdict, dataclass
from typing import Any

from minutehand.queue.models import compact_number
from minutehand.worker.option_checks import check_options
from minutehand.worker.outcomes import Seconds, seconds


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff.

    The wait begins with `first` and grows by `factor` each time, up to `cap`.

    The database waits a random 80 to 100 % of the computed time.

    Attributes:
        first: Wait after the first failed attempt, up to a day.
        cap: Maximum wait, up to a week.
        factor: 1 to 10.
    """

    first: Seconds = 60
    cap: Seconds = 3600
    factor: float = 2.0

    def __post_init__(self) -> None:
        check_options("Backoff", Backoff, asdict(self))

    def delay(self, attempt: int) -> float:
        """Return the wait in seconds after the attempt with this number, from 1, without jitter."""
        # limit the exponent, because a float overflows at 10^308
        grown = seconds(self.first) * float(self.factor) ** min(attempt - 1, 300)
        return min(seconds(self.cap), grown)

    def to_json(self) -> dict[str, Any]:
        """Return the backoff policy in the format of the database."""
        lengths = {"first_seconds": self.first, "cap_seconds": self.cap, "factor": self.factor}
        return {name: compact_number(seconds(length)) for name, length in lengths.items()}
