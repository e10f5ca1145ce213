"""Where a run's jobs run: coroutine processors share many slots, plain functions few threads.

How many jobs to ask for, and which of those that wait may begin.
"""

from __future__ import annotations

from minutehand.worker.attempt import Attempt
from minutehand.worker.held import Held
from minutehand.worker.run import Run


class Slots:
    """The slots of one run."""

    def __init__(self, run: Run, held: Held) -> None:
        self._held = held
        kinds = {name: run.registry.find(name) for name in run.job_types}
        self._plain = {name for name, kind in kinds.items() if kind and not kind.is_async}
        self._sizes = {False: run.options.concurrency, True: run.options.threads}
        #: The types of each kind that is served, by whether it is plain.
        self._served = {
            is_plain: names
            for is_plain in (False, True)
            if (names := tuple(n for n in run.job_types if (n in self._plain) is is_plain))
        }
        self._used = {False: 0, True: 0}
        self._turn = False
        #: Both kinds are served and the last request was answered in full: they take turns, so
        #: that the few threads do not bound how many coroutines are asked for.
        self._takes_turns = False

    @property
    def total(self) -> int:
        """Jobs that may run at once."""
        return sum(self._sizes[kind] for kind in self._served)

    @property
    def has_free(self) -> bool:
        """Whether one more job could begin."""
        return any(self._free(kind) > 0 for kind in self._served)

    def take(self, attempt: Attempt) -> None:
        """An attempt begins."""
        self._used[attempt.job_type in self._plain] += 1

    def give(self, attempt: Attempt) -> None:
        """An attempt has ended."""
        self._used[attempt.job_type in self._plain] -= 1

    def may_begin(self, job_type: str) -> bool:
        """Whether a leased job of that type has a slot."""
        is_plain = job_type in self._plain
        return self._used[is_plain] < self._sizes[is_plain]

    def wanted(self) -> tuple[tuple[str, ...], int]:
        """The job types to ask for next, and how many jobs."""
        kinds = [kind for kind in self._served if self._free(kind) > 0]
        if self._takes_turns and len(kinds) > 1:
            self._turn = not self._turn
            kinds = [self._turn]
        names = tuple(sorted(name for kind in kinds for name in self._served[kind]))
        return names, min((self._free(kind) for kind in kinds), default=0)

    def answered(self, *, found: int, limit: int) -> None:
        """A request for so many was answered with these."""
        self._takes_turns = len(self._served) > 1 and 0 < limit <= found

    def _free(self, kind: bool) -> int:
        waiting = sum(
            (lease.job.job_type in self._plain) is kind for lease, _ in self._held.waiting
        )
        return self._sizes[kind] - self._used[kind] - waiting
