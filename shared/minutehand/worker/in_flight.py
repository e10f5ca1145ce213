"""Jobs that a run has leased and not yet settled."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from minutehand.worker.attempt import Attempt
from minutehand.worker.run import LeaseKey


@dataclass
class InFlight:
    """Attempts of a run that are not yet settled."""

    running: dict[LeaseKey, Attempt] = field(default_factory=dict)
    #: Ended attempts that are not yet settled, and attempts whose settlement is in flight.
    ended: list[Attempt] = field(default_factory=list)
    settling: dict[LeaseKey, Attempt] = field(default_factory=dict)

    def attempts(self) -> Iterator[Attempt]:
        """Yield attempts whose leases must be renewed, including ended attempts until settlement.

        Without renewals, the lease of an ended job would expire while its settlement hangs, and
        another worker would run the job again.
        """
        yield from self.running.values()
        yield from self.ended
        yield from self.settling.values()
