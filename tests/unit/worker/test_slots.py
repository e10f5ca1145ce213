"""A leased job that waits for a slot is released when it has waited too long."""

from typing import Any

import pytest

from minutehand.queue.models import JobId, Lease, LeasedJob, WorkspaceId
from minutehand.worker import BatchedJob, Registry
from minutehand.worker.slots import BatchPool, Pool
from tests.support.engine import ACME
from tests.support.virtual_time import BEGAN


def pool_of(kind: str) -> Pool:
    """Return a pool whose only slot is in use."""
    registry = Registry()

    async def work(jobs: list[BatchedJob[Any]]) -> list[None]:
        return [None] * len(jobs)

    registry.processor("work", payload=dict, batch=2, batch_wait=0.5)(work)
    [job_type] = registry
    pool = BatchPool(job_type, 1) if kind == "batches" else Pool(("work",), 1)
    for number in range(2):
        pool.add(leased(f"runs-{number}", 60))
    assert pool.next(0.0)
    pool.remove_waiting(0.0, all_=True)
    return pool


def leased(job_id: str, lease_seconds: float) -> tuple[Lease, float]:
    """Return a job that was leased at time 0, and that time."""
    job = LeasedJob(
        id=JobId(job_id), workspace_id=WorkspaceId(ACME), job_type="work", created_at=BEGAN
    )
    return Lease(job=job, fence=1, lease_seconds=lease_seconds), 0.0


@pytest.mark.parametrize("kind", ["jobs", "batches"])
@pytest.mark.parametrize(("lease_seconds", "most"), [(60.0, 1.0), (2.0, 0.5)])
def test_what_waits_too_long_is_given_back(kind: str, lease_seconds: float, most: float) -> None:
    """A waiting job is released at the time that the pool announces.

    At the end of a run, all waiting jobs are released.
    """
    pool = pool_of(kind)
    for job_id in ("first", "second"):
        pool.add(leased(job_id, lease_seconds))

    at = pool.next_release_at()

    assert at == most + (0.5 if kind == "batches" else 0)
    assert pool.next(at) == pool.remove_waiting(at - 0.01, all_=False) == []
    assert [lease.job.id for lease, _ in pool.remove_waiting(at, all_=False)] == ["first", "second"]
    assert pool.next_release_at() is None
    assert pool.remove_waiting(at, all_=True) == []
    pool.add(leased("last", 60))
    assert len(pool.remove_waiting(at, all_=True)) == 1
