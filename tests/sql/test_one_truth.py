"""One definition of each time and count: every way to ask gives the same numbers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.engine import ACME, ADA, Engine

NAMES = ("queue_ms", "run_ms", "held_ms", "wait_ms", "total_ms", "runs")


def ways_out(engine: Engine, job_id: str) -> dict[str, dict[str, Any]]:
    """The times of an ended job, by page, list, sorted list, view, trace and, of held, attempts."""
    with engine.member(ADA) as ada:
        listed = ada.rpc("list_jobs", p_filter={"workspace_id": ACME})["jobs"]
        ordered = ada.rpc("sort_jobs", p_filter={"workspace_id": ACME}, p_by="run_ms")["jobs"]
        found = {
            "page": ada.rpc("get_job", p_job_id=job_id)["times"],
            "list": next(job for job in listed if job["id"] == job_id)["times"],
            "sorted": next(job for job in ordered if job["id"] == job_id)["times"],
            "view": ada.one("select to_jsonb(s) from public.job_states as s where id = %s", job_id),
            "trace": ada.rpc("job_trace", p_job_id=job_id)["jobs"][0]["times"],
        }
    return {way: {name: times[name] for name in NAMES} for way, times in found.items()}


def end(engine: Engine, **settled: Any) -> None:
    """Lease the next job, and settle it after two seconds of which the processor ran one."""
    lease = engine.lease_one()
    engine.advance(2)
    engine.settle(lease, duration_ms=1000, **settled)


def completed(engine: Engine) -> str:
    job_id = engine.enqueue()
    end(engine, outcome="completed")
    return job_id


def retried(engine: Engine) -> str:
    job_id = engine.enqueue()
    problem = {"type": "E", "message": "no"}
    end(engine, outcome="retry", error=problem, retry_after_seconds=5)
    engine.advance(6)
    end(engine, outcome="completed")
    return job_id


def lost(engine: Engine) -> str:
    """Twice, so that the last loss ends it."""
    job_id = engine.enqueue(max_attempts=2)
    for _ in range(2):
        engine.lease_one(lease_seconds=10)
        engine.advance(11)
        engine.lease_call(0)
    return job_id


def waited(engine: Engine) -> str:
    job_id = engine.enqueue()
    wait = {"kind": "sleep", "name": "s", "until": "2199-01-01T00:00:00Z"}
    end(engine, outcome="waiting", wait=wait)
    engine.advance(30)
    engine.rpc("cancel_job", p_job_id=job_id)
    return job_id


def cancelled(engine: Engine) -> str:
    job_id = engine.enqueue(delay_seconds=60)
    engine.rpc("cancel_job", p_job_id=job_id)
    return job_id


def parent(engine: Engine) -> str:
    job_id = engine.enqueue(max_attempts=1)
    lease = engine.lease_one()
    children = engine.spawn(lease, "all", [{"job_type": "work", "payload": {}}])
    engine.settle(lease, "waiting", wait={"kind": "children", "name": "all", "job_ids": children})
    end(engine, outcome="completed")
    engine.lease_call(0)
    end(engine, outcome="completed")
    return job_id


#: What ran, what was held, and how often, in seconds; the rest is queue and wait.
STORIES = [
    (completed, 1, 2, 1, {"completed": 1}),
    (retried, 2, 4, 2, {"completed": 1, "retried": 1}),
    (lost, 2, 22, 2, {"failed": 1, "lost": 2}),
    (waited, 1, 2, 1, {"cancelled": 1}),
    (cancelled, 0, 0, 0, {"cancelled": 1}),
    (parent, 1, 2, 2, {"completed": 2}),
]


@pytest.mark.parametrize(("story", "ran", "held", "runs", "counts"), STORIES)
def test_every_way_out_gives_the_same_times_and_counts(
    engine: Engine, story: Any, ran: float, held: float, runs: int, counts: dict[str, int]
) -> None:
    """A list that says 20 ms beside a page that says 175 ms helps no one at night."""
    engine.stop_clock()
    job_id = story(engine)

    times = ways_out(engine, job_id)

    page = times["page"]
    assert all(each == page for each in times.values()), times
    assert page["total_ms"] == pytest.approx(
        (page["queue_ms"] or 0) + page["held_ms"] + page["wait_ms"], abs=1
    )
    assert page["runs"] == runs
    assert page["held_ms"] == 1000 * held
    assert page["run_ms"] <= page["held_ms"] + 1
    attempts = engine.rpc("job_attempts", p_job_id=job_id)["attempts"]
    spans = engine.one(
        "select coalesce(sum(extract(epoch from a.ended_at - a.leased_at)) * 1000, 0)::float8"
        " from public.jobs as j cross join queue.attempt_lines(j, 1000) as a where j.id = %s",
        job_id,
    )
    assert (len(attempts), spans) == (runs, pytest.approx(page["held_ms"], abs=1))
    with engine.member(ADA) as ada:
        stats = ada.rpc("queue_stats", p_workspace_id=ACME)["types"]["work"]
        types = ada.rpc("list_job_types", p_workspace_id=ACME)["types"]
        points = ada.rpc("queue_series", p_workspace_id=ACME)["points"]
    day = next(line for line in types if line["job_type"] == "work")["day"]
    for name in ("completed", "failed", "cancelled", "retried", "lost"):
        expected = counts.get(name, 0)
        assert (stats[name], day[name]) == (expected, expected), name
        assert sum(point[name] for point in points) == expected, name


NEW = [
    {},
    {"priority": 5, "concurrency_key": "k", "session_id": "s", "tags": ["a"]},
    {"deadline_at": "2199-01-01T00:00:00Z", "backoff": {"factor": 3}, "traceparent": "00-a"},
    {"delay_seconds": 60},
    {"scheduled_for": "2020-01-01T00:00:00Z"},
    {"unique": {"key": "u"}},
]


@pytest.mark.parametrize("options", NEW)
def test_the_answer_of_an_enqueue_is_the_job_as_its_page_has_it(
    engine: Engine, options: dict[str, Any]
) -> None:
    """The common answer is written in one go, without asking what is derived of a job."""
    engine.stop_clock()

    with engine.member(ADA) as ada:
        answer = ada.rpc(
            "enqueue_job",
            p_workspace_id=ACME,
            p_job_type="work",
            p_payload={"a": 1},
            p_options=options,
        )
        page = ada.rpc("get_job", p_job_id=answer["job"]["id"])

    assert set(answer) == {"job", "created", "wake", "warning"}
    assert answer["job"] == page
