"""A context's port that stores nothing: tests look at the updates itself."""

from __future__ import annotations

from collections.abc import Sequence

from minutehand.queue.models import JobId, NewJob
from minutehand.worker.context import Updates


class Recorder:
    """Whoever runs the processor, as far as updates is concerned."""

    def __init__(self) -> None:
        self.updates = Updates()

    def announce(self) -> None:
        """Nobody waits for it."""

    async def flush(self) -> None:
        """Nothing is stored."""

    async def spawn(self, name: str, children: Sequence[NewJob]) -> list[JobId]:
        """No children here."""
        raise AssertionError(f"{name} spawns {len(children)} children")

    def remaining(self) -> float:
        """All the time there is."""
        return 60.0

    def stop_requested(self) -> bool:
        """Never."""
        return False
