"""The leases that a run holds, from the answer that brought them to the settle's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from minutehand.worker.attempt import Attempt
from minutehand.worker.run import LeaseKey


@dataclass(slots=True)
class Held:
    """What a run holds leases of."""

    running: dict[LeaseKey, Attempt] = field(default_factory=dict)
    #: Ended, and not settled yet; then those whose settle is on its way.
    ended: list[Attempt] = field(default_factory=list)
    settling: dict[LeaseKey, Attempt] = field(default_factory=dict)

    def attempts(self) -> Iterator[Attempt]:
        """Those whose leases are to be renewed: also what has ended, until its settle is through.

        A settle that hangs would else let the lease expire, and another worker run the job again.
        """
        yield from self.running.values()
        yield from self.ended
        yield from self.settling.values()
