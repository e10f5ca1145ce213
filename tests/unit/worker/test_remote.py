"""Work in other services, which has one deadline."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from minutehand.queue.errors import ProcessorError
from minutehand.worker.remote import RemoteFailed, RemoteTask, run_remote
from tests.support.virtual_time import leaping


@dataclass
class Slow:
    """A service that accepts or rejects work after four seconds. The work never ends."""

    name: str
    accepts: bool = True
    left: float = 0.0
    cancelled_at: float = 0.0

    async def submit(self, *, left: float) -> str:
        self.left = left
        await asyncio.sleep(4)
        if not self.accepts:
            raise RemoteFailed("no")
        return "task"

    async def poll(self, task_id: str) -> RemoteTask:
        return await asyncio.Future[RemoteTask]()

    async def result(self, task_id: str) -> Any:
        raise AssertionError

    async def cancel(self, task_id: str) -> None:
        self.cancelled_at = asyncio.get_running_loop().time()


def test_services_share_one_deadline_at_which_the_work_is_cancelled() -> None:
    rejects, accepts = Slow("rejects", accepts=False), Slow("accepts")
    work = run_remote(
        [rejects, accepts],
        max_seconds=10,
        left=10,
        resume=None,
        call_seconds=60,
        on_failed=lambda service, reason: None,
    )

    with pytest.raises(ProcessorError, match="within 10 s"):
        leaping(work)

    assert (rejects.left, accepts.left, accepts.cancelled_at) == (10, 6, 10)
