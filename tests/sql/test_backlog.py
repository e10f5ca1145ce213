"""Green means green: due jobs are counted by what keeps them, for all and for each workspace."""

from __future__ import annotations

from typing import Any

from tests.support.engine import ACME, ADA, GLOBEX, Engine


def backlog(engine: Engine, workspace: str | None = None) -> dict[str, Any]:
    """What statistics, the Overview and doctor read."""
    found: dict[str, Any] = engine.rpc("queue_stats", p_workspace_id=workspace)["backlog"]
    return found


def test_each_cause_is_counted_apart(engine: Engine) -> None:
    """One number for all of them read as work that gets on."""
    for name, policy in {
        "lone": {"key_concurrency": 1}, "narrow": {"max_concurrency": 1}, "halted": {},
        "forgotten": {}, "unknown": {},
    }.items():  # fmt: skip
        engine.register(name, **policy)
    for name in ("narrow", "halted", "forgotten", "unknown"):
        engine.enqueue_many(2, job_type=name)
    engine.enqueue_many(3, job_type="lone", concurrency_key="k")
    engine.enqueue(workspace=GLOBEX)
    engine.rpc("pause_jobs", p_request={"kind": "job_type", "name": "halted"})
    engine.lease(10, job_types=["lone", "narrow"])
    engine.lease_call(0, job_types=["lone", "narrow", "halted", "work"])

    found = backlog(engine)

    jobs = {cause: found[cause]["jobs"] for cause in found if isinstance(found[cause], dict)}
    assert jobs == {
        "ready": 1, "stalled": 0, "unserved": 4, "paused": 2, "at_limit": 1, "blocked": 2
    }  # fmt: skip
    assert (found["verdict"], found["jobs"]) == ("warn", 10)
    assert "4 wait: no worker serves forgotten, unknown" in found["detail"]
    assert "2 are paused: halted" in found["detail"]
    assert found["fix"].startswith("deploy the processor")
    assert engine.rpc("queue_health")["backlog"]["detail"] == found["detail"]


def test_a_workspace_sees_its_own_figures(engine: Engine) -> None:
    """A tenant without a job must not read of ten thousand that are another's."""
    engine.register("forgotten")
    engine.enqueue_many(1001, workspace=GLOBEX, job_type="forgotten")
    engine.lease_call(0, job_types=["work"])

    with engine.member(ADA) as ada:
        own = ada.rpc("queue_stats", p_workspace_id=ACME)["backlog"]

    assert (own["jobs"], own["verdict"], own["detail"]) == (0, "pass", "nothing is due")
    assert backlog(engine, GLOBEX)["detail"] == "1,001 wait: no worker serves forgotten"


def test_more_than_is_counted_is_a_warning(engine: Engine) -> None:
    """Ten thousand are as many as are counted."""
    engine.enqueue()
    engine.run(
        "insert into queue.ready (partition_id, ready_at, job_id, workspace_id, job_created_at)"
        " select partition_id, ready_at, gen_random_uuid(), workspace_id, job_created_at"
        " from queue.ready, generate_series(1, 9998)"
    )
    fewer = backlog(engine)
    engine.enqueue()
    found = backlog(engine)
    engine.run("delete from queue.ready where job_id not in (select id from public.jobs)")

    assert (fewer["verdict"], fewer["at_least"]) == ("pass", False)
    assert (found["verdict"], found["at_least"]) == ("warn", True)


def test_what_could_start_and_does_not_is_stalled(engine: Engine) -> None:
    """A warning after two minutes, and a failure after a quarter of an hour."""
    engine.enqueue_many(2)
    assert backlog(engine)["verdict"] == "pass"
    engine.advance(130)
    found = backlog(engine)
    assert (found["stalled"]["jobs"], found["verdict"]) == (2, "warn")
    engine.advance(800)
    found = backlog(engine)
    assert (found["verdict"], found["fix"]) == ("fail", "minutehand doctor --only schedule")
    engine.lease(1)
    assert backlog(engine)["verdict"] == "pass"
