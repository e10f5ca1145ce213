"""A file contains the id of the job whose coroutine runs now."""

import asyncio
from pathlib import Path

import pytest

from minutehand.queue.models import JobId
from minutehand.worker.current_job import RecordedCoroutine, map_file, read_current_job
from minutehand.worker.stacks import stack_of

JOB = JobId("01a2b3c4-0000-7000-8000-000000000001")


async def test_the_file_names_a_job_only_while_the_job_runs(tmp_path: Path) -> None:
    """The file names the job also in its clean-up. The stack shows where the job waits."""
    path = tmp_path / "current"
    recorded = []

    async def work() -> None:
        recorded.append(read_current_job(path))
        try:
            await asyncio.sleep(600)
        finally:
            recorded.append(read_current_job(path))

    task = asyncio.create_task(RecordedCoroutine(work(), JOB, map_file(path)))
    await asyncio.sleep(0)
    assert read_current_job(path) is None
    assert [frame["function"] for frame in stack_of(task, "", __name__)] == ["work", "sleep"]

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorded == [JOB, JOB]
    assert read_current_job(path) is None
