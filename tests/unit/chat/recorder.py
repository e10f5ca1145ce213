"""A context's port that stores nothing: tests look at the updates itself."""

from __future__ import annotations

from collections.abc import Sequence

from minutehand.queue.models import Artefact, JobId, NewArtefact, NewJob
from minutehand.queue.tables import Table
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

    async def store_artefact(self, artefact: NewArtefact) -> Artefact:
        """No files here."""
        raise AssertionError(f"{artefact.name} is stored")

    def table(self, name: str, schema: str) -> Table:
        """No tables here."""
        raise AssertionError(f"{name} is opened")

    def remaining(self) -> float:
        """All the time there is."""
        return 60.0

    def stop_requested(self) -> bool:
        """Never."""
        return False
