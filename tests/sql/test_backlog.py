# ruff: noqa: E501 - requests stay on one line
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
    engine.stop_clock()
    limits: dict[str, dict[str, Any]] = {
        "narrow": {"max_concurrency": 1}, "here": {"workspace_concurrency": 1}, "rated": {"rate_limit": {"limit": 1, "per_seconds": 600}},
        "keyed": {"rate_limit": {"limit": 1, "per_seconds": 600, "per_key": True}},
    }  # fmt: skip
    unserved = ["forgotten", "unknown", "third", "fourth"]
    for name, policy in {
        **limits, "lone": {"key_concurrency": 1}, "halted": {}, "split": {}, **{name: {} for name in unserved}
    }.items():  # fmt: skip
        engine.register(name, **policy)
    for name in (*limits, "halted"):
        engine.enqueue_many(2, job_type=name)
    for workspace in (ACME, GLOBEX):
        engine.enqueue_many(3, job_type="lone", concurrency_key="k", workspace=workspace)
        engine.enqueue(job_type="split", workspace=workspace)
    engine.enqueue(workspace=GLOBEX)
    for name in unserved:
        engine.enqueue(job_type=name)
        engine.advance(1)
    engine.rpc("pause_jobs", p_request={"kind": "job_type", "name": "halted"})
    split = {"kind": "workspace_type", "name": "split", "workspace_id": GLOBEX}
    engine.rpc("pause_jobs", p_request=split)
    assert len(engine.lease(10, job_types=["lone", *limits])) == 6
    # of another workspace or key: they take no one's room
    engine.enqueue(workspace=GLOBEX, job_type="here")
    engine.enqueue(job_type="lone", concurrency_key="o")
    served = ["lone", *limits, "halted", "split", "work"]
    engine.lease_call(0, job_types=served)

    found = backlog(engine)

    jobs = {cause: found[cause]["jobs"] for cause in found if isinstance(found[cause], dict)}
    assert jobs == {
        "ready": 4, "stalled": 0, "unserved": 4, "paused": 3, "at_limit": 4, "blocked": 4
    }  # fmt: skip
    assert (found["verdict"], found["jobs"]) == ("warn", 19)
    assert "4 wait: no worker serves forgotten, unknown, third and 1 more;" in found["detail"]
    assert "3 are paused: split, halted" in found["detail"]
    assert found["fix"].startswith("deploy the processor")
    assert engine.rpc("queue_health")["backlog"]["detail"] == found["detail"]
    engine.advance(61)  # an expired lease holds no slot
    found = backlog(engine)
    assert (found["at_limit"]["jobs"], found["blocked"]["jobs"]) == (2, 0)
    engine.advance(539)  # and then there is a token
    assert backlog(engine)["at_limit"]["jobs"] == 0


def test_live_jobs_are_counted_by_state(engine: Engine) -> None:
    """Of a workspace, or of all."""
    for workspace in (ACME, GLOBEX):
        engine.enqueue(workspace=workspace, delay_seconds=999)
        for outcome, item in (
            ("retry", {"delay_seconds": 99, "error": {"type": "E"}}),
            ("waiting", {"wait": {"kind": "sleep", "name": "s", "until": "2099-01-01T00:00:00Z"}}),
        ):
            engine.enqueue(workspace=workspace)
            engine.settle(engine.lease_one(), outcome, **item)
        engine.enqueue(workspace=workspace)
        engine.lease_one()
    for workspace in (ACME, GLOBEX):
        engine.enqueue(workspace=workspace)

    states = ("queued", "scheduled", "retrying", "running", "suspended")
    for asked, count in ((ACME, 1), (None, 2)):
        live = engine.rpc("queue_stats", p_workspace_id=asked)["live"]
        assert live == dict.fromkeys(states, count)


def test_a_workspace_sees_its_own_figures(engine: Engine) -> None:
    """A tenant without a job must not read of ten thousand that are another's."""
    engine.register("forgotten")
    engine.enqueue_many(1001, workspace=GLOBEX, job_type="forgotten")
    for queue in ("far", "halted"):
        engine.enqueue(workspace=GLOBEX, queue=queue)
    engine.rpc("pause_jobs", p_request={"kind": "queue", "name": "halted"})
    engine.lease_call(0, job_types=["work"], queues=["default"])

    with engine.member(ADA) as ada:
        own = ada.rpc("queue_stats", p_workspace_id=ACME)["backlog"]

    assert (own["jobs"], own["verdict"], own["detail"]) == (0, "pass", "nothing is due")
    theirs = backlog(engine, GLOBEX)
    assert theirs["detail"] == "1,002 wait: no worker serves forgotten, work; 1 are paused: work"
    # what alarms go by leaves out what the workers that run cannot help
    assert (theirs["oldest_due_seconds"], theirs["unserved"]["oldest_seconds"] >= 0) == (None, True)


def test_a_workspaces_own_limit_holds_back_its_jobs_alone(engine: Engine) -> None:
    """They wait for it as others do for the limit of their type."""
    engine.rpc("set_workspace_limits", p_workspace_id=GLOBEX, p_limits={"max_running": 1})
    for workspace in (ACME, GLOBEX):
        engine.enqueue_many(2, workspace=workspace)
    assert len(engine.lease(10)) == 3
    engine.enqueue()

    found = backlog(engine)

    assert (found["at_limit"]["jobs"], found["ready"]["jobs"]) == (1, 1)


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
    assert "10,000+ start next: work" in found["detail"]


def test_what_could_start_and_does_not_is_stalled(engine: Engine) -> None:
    """A warning after two minutes, and a failure after a quarter of an hour."""
    engine.stop_clock()
    engine.enqueue_many(2)
    engine.advance(120)
    assert backlog(engine)["verdict"] == "pass"
    engine.advance(1)
    found = backlog(engine)
    assert (found["stalled"]["jobs"], found["verdict"]) == (2, "warn")
    engine.advance(779)
    assert backlog(engine)["verdict"] == "warn"
    engine.advance(1)
    found = backlog(engine)
    assert (found["verdict"], found["fix"]) == ("fail", "minutehand doctor --only schedule")
    engine.lease(1)
    assert backlog(engine)["verdict"] == "pass"
