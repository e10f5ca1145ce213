"""A file contains the id of the job whose coroutine runs now."""

import asyncio
import os
from pathlib import Path

import pytest

from minutehand.queue.models import JobId
from minutehand.worker import current_job
from minutehand.worker.current_job import RecordedCoroutine, read_current_job, record_jobs
from minutehand.worker.stacks import stack_of

JOB = JobId("01a2b3c4-0000-7000-8000-000000000001")


async def test_the_file_names_a_job_only_while_the_job_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file names the job also in its clean-up. The stack shows where the job waits."""
    path = tmp_path / "current"
    recorded = []
    for module, name in ((os, "_exit"), (os, "kill"), (current_job, "_memory")):
        monkeypatch.setattr(module, name, getattr(module, name))  # restored at the end
    record_jobs(path)

    async def work() -> None:
        os.kill(os.getpid(), 0)
        recorded.append(read_current_job(path, ""))
        try:
            await asyncio.sleep(600)
        finally:
            recorded.append(read_current_job(path, ""))

    task = asyncio.create_task(RecordedCoroutine(work(), JOB))
    await asyncio.sleep(0)
    assert read_current_job(path, "") is None
    assert [frame["function"] for frame in stack_of(task, "", __name__)] == ["work", "sleep"]

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorded == [JOB, JOB]
    assert read_current_job(path, "") is None
