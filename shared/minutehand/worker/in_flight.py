"""The leased jobs of a run, from the lease until they are settled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from minutehand.worker.attempt import Attempt
from minutehand.worker.run import LeaseKey


@dataclass(slots=True)
class InFlight:
    """The attempts of a run that are in flight."""

    running: dict[LeaseKey, Attempt] = field(default_factory=dict)
    #: Attempts that have ended and are not yet settled, and those whose settle is in flight.
    ended: list[Attempt] = field(default_factory=list)
    settling: dict[LeaseKey, Attempt] = field(default_factory=dict)

    def attempts(self) -> Iterator[Attempt]:
        """Yield the attempts whose leases must be renewed, also ended ones until they are settled.

        Without this, a lease would expire while a settle hangs, and another worker would run the
        job.
        """
        yield from self.running.values()
        yield from self.ended
        yield from self.settling.values()
