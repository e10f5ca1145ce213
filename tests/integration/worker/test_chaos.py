"""The chaos run in its short form; the long one is `python -m tests.integration.worker.chaos`."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from infra.bench.scratch import scratch_project
from tests.integration.worker.chaos import Books, Chaos
from tests.support.weekly import weekly


@pytest.mark.slow
@pytest.mark.weekly
@pytest.mark.timeout(420)
def test_every_job_ends_exactly_once_whatever_dies(tmp_path: Path) -> None:
    """Workers, the Data API and Postgres are killed in mid-flight, and calls are lost.

    A result from a stale lease, a job lost or ended twice, attempts that do not add up: each
    would be a problem in the books.
    """
    jobs = weekly(1_000, otherwise=300)
    with scratch_project(tmp_path, durable=False) as scratch:
        chaos = Chaos(
            scratch,
            tmp_path,
            jobs=jobs,
            workers=2,
            rng=random.Random(11),
            pause=(0.1, 0.6),
            books=Books(jobs),
        )
        books = asyncio.run(chaos.run())

    assert books.problems == [], "\n".join(books.lines())
    assert sum(books.faults.values()) > 0
    assert books.attempts["completed"] == books.jobs >= jobs  # crowds and schedules add some
