"""`explain_job` returns a reason and a sentence for each state in which a job can wait.

`explain_queue` returns findings about the whole queue.
"""

import json
import random
import re
import string
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.contract.observed import later, refused
from tests.support.engine import (
    ACME,
    ADA,
    ERROR,
    EVE,
    GLOBEX,
    TICK,
    Engine,
    Json,
    handle,
    remedy,
    remedy_command,
)
from tests.support.patience import until

#: A lease request of a worker that requests no job.
LOOK: dict[str, Any] = {"tick_id": TICK, "worker_id": "w9"}
LOOK |= {"limit": 0, "call": 1}
#: A report of a running job whose last update is its start.
PULSE: dict[str, Any] = {"last": "start", "for_ms": 0, "place": "a.py:1", "memory_mb": 9}


def reason(engine: Engine, job_id: str) -> str:
    said = engine.explain(job_id)
    assert said["status"] == engine.status(job_id)
    return str(said["reason"])


def test_every_place_of_a_life_has_its_reason(engine: Engine, ada: Engine) -> None:
    """`explain_job` returns a reason in each state of a job, from scheduled to cancelled."""
    job_id = engine.enqueue(delay_seconds=60)
    assert reason(engine, job_id) == "scheduled"
    engine.advance(61)
    assert reason(engine, job_id) == "due"
    engine.maintain()
    assert reason(engine, job_id) == "no_worker"
    lease = engine.lease_one()
    assert reason(engine, job_id) == "running"
    engine.run("revoke execute on function public.settle_jobs from job_worker")
    right = "`grant execute on function public.settle_jobs(jsonb) to job_worker`"
    assert right in remedy(engine.explain(job_id))
    # a member does not see the function's name
    shown = [ada.explain(job_id)["next"], ada.findings(ACME)["workers_lack_right"]["next"]]
    assert str(shown).count("Notify the operator") == 2
    engine.run("revoke execute on function public.lease_jobs from job_worker")
    found = ada.findings(ACME)["workers_lack_right"]
    assert "so they may not take jobs." in found["sentence"]
    assert right in remedy(engine.findings(ACME)["missing_right"])  # but an operator does
    assert "settle_jobs" not in str([shown, ada.overview(ACME)])
    engine.run("grant execute on function public.settle_jobs to job_worker")
    engine.settle(lease, "retry", error={"type": "E", "message": "bad luck"})
    assert "Attempt 1 of 5 failed (E: bad luck)" in engine.sentence(job_id)
    engine.advance(100)
    engine.settle(engine.lease_one(), "snoozed", delay_seconds=60)
    engine.advance(30)
    assert reason(engine, job_id) == "snoozed"  # the job keeps its last error
    engine.advance(100)
    lease = engine.lease_one()
    ada.cancel(job_id)
    assert reason(engine, job_id) == "cancelling"
    by_ada = "by a signed-in user."
    assert f" {by_ada} Worker w1" in engine.sentence(job_id)
    engine.advance(120)
    assert reason(engine, job_id) == "lease_expired"
    assert engine.explain(job_id)["held_by"]["until"] is not None
    engine.maintain()
    assert reason(engine, job_id) == "cancelled"
    assert ada.sentence(job_id).endswith(by_ada)
    assert remedy_command(ada.explain(job_id)) == f"minutehand retry {job_id}"
    parent = engine.enqueue()
    child = engine.enqueue(parent_id=parent)
    with ada.as_role("authenticated", sub=EVE, app_metadata={"minutehand_operator": True}) as eve:
        eve.cancel(parent)
    assert ada.sentence(parent).endswith("by an operator.")
    assert ada.sentence(child).endswith("because its parent ended.")
    engine.cancel(second := engine.enqueue())
    assert engine.sentence(second).endswith("by a database session.")
    for role, words in (("anon", "a guest"), ("service_role", "the service, with a secret key")):
        job_id = engine.enqueue()
        with engine.connection.transaction():
            claims = "select set_config('request.jwt.claims', %s, true)"
            engine.run(claims, json.dumps({"role": role}))
            engine.run("select queue.cancel(array[%s]::uuid[], queue.clock())", job_id)
        assert engine.sentence(job_id).endswith(f"by {words}.")
    job_id, lease = engine.start()
    error = {"type": "Cancelled", "message": "withdrawn"}
    engine.settle(lease, "cancelled", error=error)
    assert engine.sentence(job_id).endswith("by its processor: withdrawn")


@pytest.mark.parametrize(
    ("expected", "policy", "limits"),
    [
        ("key_limit", {"key_concurrency": 1}, {}),
        ("workspace_type_limit", {"workspace_concurrency": 1}, {}),
        ("workspace_limit", {}, {"max_running": 1}),
        ("type_limit", {"max_concurrency": 1}, {}),
        ("rate_limited", {"rate_limit": {"limit": 1, "per_seconds": 60}}, {}),
    ],
)
def test_a_limit_that_is_used_up_is_named(
    engine: Engine, expected: str, policy: dict[str, Any], limits: dict[str, Any]
) -> None:
    """The explanation of a waiting job names the limit and the job that uses the limit up.

    If the job misses its latest start, the explanation still names both, and advises a retry.
    """
    options: dict[str, Any] = {"concurrency_key": "k"} if expected == "key_limit" else {}
    engine.register("work", **policy)
    engine.limit(**limits)
    holder, _ = engine.start(**options)
    waits = engine.enqueue(start_by_seconds=5, parent_id=holder, **options)
    engine.lease(5)
    last = engine.enqueue(**options, priority=900)
    behind = engine.explain(last)
    by_priority = "" if expected == "key_limit" else ", 1 of them because their priority is smaller"
    assert f"ahead of it: 1{by_priority}." in behind["sentence"]
    assert "the jobs ahead of it (1), enqueue it again with a smaller priority" in remedy(behind)
    engine.cancel(last)

    said = engine.explain(waits)
    assert "ahead of it" not in said["sentence"]
    if expected == "rate_limited":
        with engine.connection.transaction():
            engine.run("set local track_functions = 'pl'")
            engine.explain(waits)
            calls = "select calls from pg_stat_xact_user_functions where funcname = %s"
            assert engine.one(calls, "explain_stopped") == 1
        first, second = (datetime.fromisoformat(e["estimated_start_at"]) for e in (said, behind))
        assert (second - first).total_seconds() == 60
    assert (said["reason"], said["data"]["limit"]) == (expected, 1)
    if expected != "rate_limited":
        held = said["held_by"]
        assert (held["holder"]["job_id"], held["waiting"]) == (holder, 1)
        assert holder in said["sentence"]
        assert remedy_command(said) == f"minutehand explain {holder}"
        assert f"Job {holder} is its parent" in remedy(said)
    [line] = engine.overview()["holders"]
    assert (line["reason"], line["jobs"], line["sentence"]) == (expected, 1, said["sentence"])
    # The console searches jobs by these keys.
    assert line["keys"] == (["k"] if line["kind"] == "key" else None)
    assert (line["kind"] == "key") == (expected == "key_limit")
    engine.elapse(10)
    late = engine.explain(waits)
    assert said["sentence"].partition(" It will be")[0] in late["sentence"]
    assert remedy_command(late) == f"minutehand retry {waits}"


@pytest.mark.parametrize(
    ("limit", "takes"), [("key_concurrency", "9.9 s"), ("max_concurrency", "9.9 s or more")]
)
def test_a_job_behind_many_is_not_sent_to_the_running_one(
    engine: Engine, limit: str, takes: str
) -> None:
    """The end of one job starts another one first, unless that job never ends."""
    engine.register("work", **{limit: 2})
    for _ in range(5):
        engine.settle(engine.start()[1], duration_ms=2_000)
    engine.elapse(60)
    leases = [engine.start(concurrency_key="k")[1] for _ in range(2)]
    ids = [engine.enqueue(concurrency_key="k") for _ in range(10)]
    for lease in leases:
        engine.report(lease, pulse=PULSE)
    holder = leases[0]["job"]["id"]

    first, last = engine.explain(ids[0]), engine.explain(ids[-1])
    assert remedy(first) == f"Wait for job {holder}:"
    assert "ahead of it: 9. At the usual duration" in last["sentence"]
    assert f" they take about {takes}." in last["sentence"]
    steps = [step["words"] for step in last["next"]]
    assert steps[0].startswith("If it must not wait for the jobs ahead of it (9), enqueue it again")
    assert [limit in step for step in steps] == [False, True]
    smallest = [engine.enqueue(concurrency_key="k", priority=0) for _ in range(2)][-1]
    assert "smaller priority" not in str(engine.explain(smallest)["next"])
    engine.advance(25)
    assert f"See whether job {holder} still works:" in str(engine.explain(ids[-1])["next"])


@pytest.mark.parametrize("limit", ["key_concurrency", "max_concurrency"])
def test_jobs_wait_for_a_limit_since_before_its_present_holder(engine: Engine, limit: str) -> None:
    engine.register("work", **{limit: 1})
    engine.enqueue_many(3, concurrency_key="k")
    enqueued_at = engine.now()
    for _ in range(2):
        leases = engine.lease(1)
        engine.advance(20)
        [holder] = engine.overview(ACME)["holders"]
        engine.complete(leases)
        assert datetime.fromisoformat(holder["since"]) < enqueued_at


def test_a_missed_start_names_what_held_the_job(engine: Engine) -> None:
    """A deadline and a latest start may pass during a pause, or while no worker runs.

    A job that only waited has used up no attempt, which its sentence then does not count.
    """

    def enqueue(seconds: int) -> list[str]:
        return [
            engine.enqueue(deadline_at=later(engine, seconds)),
            engine.enqueue(start_by_seconds=seconds),
        ]

    def sentences(ids: list[str]) -> str:
        return " ".join(engine.sentence(each) for each in ids)

    asks = enqueue(30)[0]
    engine.suspend(engine.lease_one(limit=1), kind="event", event="paid")
    assert "It fails if it has not ended at" in sentences([asks])
    engine.pause("job_type", "work")
    paused = enqueue(5)
    engine.elapse(10)
    assert sentences(paused).count("The reason at that time: The job type work has been pau") == 2
    for each in paused:
        assert "when that reason has gone" in remedy(engine.explain(each))
    engine.resume("job_type", "work")
    late = enqueue(300)
    engine.advance(400)
    engine.rpc("lease_jobs", p_request=LOOK)
    engine.maintain()
    assert sentences(late).count("at that time: The workers that serve it began their runs") == 2
    assert "+00: its deadline passed while it waited for the event" in sentences([asks])
    words = remedy(engine.explain(asks))
    assert words == "Enqueue a copy. A copy has no deadline."


def test_only_jobs_ahead_that_can_run_are_counted(engine: Engine) -> None:
    """The explanation of a waiting job counts only earlier jobs that can run.

    Jobs of other tenants or types, delayed jobs and expired jobs do not count.
    """
    engine.register("other")
    engine.register("keyed", key_concurrency=1)
    engine.lease(1)
    ahead = engine.enqueue()
    assert reason(engine, ahead) == "next_in_line"
    engine.enqueue(workspace=GLOBEX)
    engine.enqueue(job_type="other")
    engine.enqueue_many(2, job_type="keyed", concurrency_key="k")
    engine.enqueue(delay_seconds=60)
    engine.enqueue(deadline_at=later(engine, 1))
    engine.enqueue(start_by_seconds=1)
    last = engine.enqueue()
    engine.advance(2)

    said = engine.explain(last)
    assert (said["reason"], said["data"]["ahead"]) == ("behind_others", 1)
    low = engine.explain(engine.enqueue(priority=900, start_by_seconds=60))
    assert "ahead of it: 2, 2 of them because their priority is smaller." in low["sentence"]
    assert low["sentence"].endswith("which 2 jobs ahead of it may prevent.")
    assert "If it must start by" in remedy(low)


def test_a_type_is_unserved_as_soon_as_its_last_worker_is_gone(engine: Engine) -> None:
    """When the last worker of a job type ends, `explain_job` names this worker.

    If the type's registration was rejected, the rejection is the cause. If all worker keys were
    revoked, a new key is the first advice until a worker calls. Then it is only advised for types
    whose worker called until the revocation.
    """
    engine.register("other")
    engine.advance(120)
    engine.enqueue()
    engine.complete(engine.lease(1, worker="w1", job_types=["work"]))
    engine.enqueue(job_type="other")
    engine.complete(engine.lease(1, worker="w2", job_types=["other"], tick_id=TICK))
    job_id = engine.enqueue(job_type="other")
    assert "a worker with a free slot" in engine.sentence(job_id)

    engine.advance(80)
    engine.maintain()
    job_id = engine.enqueue(job_type="other", priority=1)
    behind = engine.enqueue(job_type="other")

    def sentences() -> str:
        return str([engine.sentence(each) for each in (job_id, behind)])

    assert sentences().count("The last call of such a worker was at") == 2
    engine.finish(worker_id="w2", summary={}, tick_id=TICK)
    assert sentences().count("The last run ended at") == 2
    engine.register("third")
    third = engine.explain(engine.enqueue(job_type="third"))
    assert "No worker that serves it runs." in third["sentence"]
    engine.register("other", schedules=[{"name": "n", "cron": "0 0 30 2 *"}])
    engine.advance(150)
    with engine.as_role("job_worker") as worker:
        worker.lease_call(0, worker="w1", job_types=["work"])
    said = engine.explain(job_id)
    assert (said["reason"], "0 0 30 2 *" in said["cause"]) == ("no_processor", True)
    assert "Worker w2 served it, and its last recorded call was at" in said["sentence"]
    assert remedy_command(said) == "minutehand types other"
    assert said["next"][1]["words"].endswith("with its file of settings (`-e`):")
    engine.revoke_keys()
    assert remedy_command(engine.explain(job_id)) == "minutehand token worker"
    engine.advance(200)
    engine.lease_call(0, worker="w3", job_types=["third"])  # with a new key
    assert "token worker" in str(engine.explain(engine.enqueue())["next"])
    for shown in (engine.explain(job_id), engine.findings()["no_processor"]):
        assert "token worker" not in str(shown["next"])
    engine.lease_call(0, worker="w3", job_types=["other"], queues=["mail"])
    engine.register("other")  # although registered just now, no worker of the queue may be starting
    for shown in (engine.explain(job_id), engine.findings()["no_processor"]):
        assert "other in the queue default" in shown["sentence"]
    assert "--queue default" in remedy(engine.explain(job_id))
    assert "work" in engine.findings()["no_processor"]["sentence"]
    assert remedy(shown).startswith("Each type needs its own step")
    engine.register("third", key_concurrency=1)
    for key in "abab":
        engine.enqueue(job_type="third", concurrency_key=key)
    engine.advance(200)
    lines = engine.overview()["holders"]
    assert [line["jobs"] for line in lines if line["job_types"] == ["third"]] == [5]


def test_a_job_whose_workers_are_stopped_again_and_again_is_named(engine: Engine) -> None:
    """A stop that comes from outside leaves no error, so only the number of stops shows it."""
    job_id = engine.enqueue()
    for n in range(4):
        assert "were stopped" not in engine.sentence(job_id)
        assert "stopped_jobs" not in engine.findings()
        [lease] = engine.lease(worker=f"process-{n}")
        engine.settle(lease, "released")
        engine.advance(0 if n else 100)  # a worker may release a job without a stop
        engine.finish(worker_id=f"process-{n}", summary={"stopped": True})

    said = engine.explain(job_id)
    assert "were stopped 3 times before it ended" in said["sentence"]
    found = engine.findings(ACME)["stopped_jobs"]
    assert found["jobs"] == 1
    for shown in (said, found):
        assert remedy(shown).startswith("See what stops the workers")
        assert {step["kind"] for step in shown["next"]} == {"act"}
    assert "stopped_jobs" not in engine.findings(GLOBEX)
    engine.complete(engine.lease())
    assert "were stopped" not in engine.sentence(job_id)
    assert "stopped_jobs" not in engine.findings()


def test_failed_jobs_that_are_deleted_at_once_are_a_finding(engine: Engine, ada: Engine) -> None:
    """People otherwise see an empty list, and do not know why."""
    engine.lease(1)
    for failed, is_found in ((1, False), (0, True)):
        engine.set(retention_days={"completed": 0, "cancelled": 7, "failed": failed})
        assert ("no_retention" in engine.findings()) == is_found
    found = ada.findings(ACME)["no_retention"]
    assert "(completed, failed)" in found["sentence"]
    assert '{"failed": 90, "cancelled": 7, "completed": 30}' in remedy(found)


@pytest.mark.parametrize(("seconds", "is_named"), [(30, True), (100, False), (900, False)])
def test_an_expired_worker_key_is_named(engine: Engine, seconds: int, is_named: bool) -> None:
    """If the last worker called until its key expired, and did not stop, it needs a new key."""
    job_id, delayed = engine.enqueue(), engine.enqueue(delay_seconds=900)
    expires = int(engine.now(seconds).timestamp())
    with engine.as_role("job_worker", exp=expires) as worker:
        worker.rpc("lease_jobs", p_request=LOOK)
    engine.advance(200)

    explained = engine.explain(job_id), engine.explain(delayed)
    for shown in (*explained, engine.findings()["no_worker"]):
        named = "expired at" in shown["sentence"], "WORKER_KEY" in remedy(shown)
        assert named == (is_named, is_named)
    engine.register("other")
    engine.lease_call(0, worker="w2", job_types=["other"])
    # the row of a worker is up to a minute old
    assert ("expired at" in engine.sentence(job_id)) == (seconds <= 120)
    found = engine.findings()["no_processor"]
    assert ("WORKER_KEY" in remedy(found)) == (seconds <= 120)
    with engine.undone():
        engine.enqueue(job_type="z")  # whose worker has no expired key
        assert remedy(engine.findings()["no_processor"]).startswith("Each type needs")
    # the Data API accepts an expired key for 30 seconds
    late = "update queue.workers set seen_at = to_timestamp(%s) where worker_id <> 'w2'"
    engine.run(late, expires + 20)
    engine.advance(1000)
    engine.lease_call(0, worker="w2", job_types=["other"])
    assert "expired at" in engine.sentence(job_id)
    engine.run("update queue.workers set summary = summary || '{\"stopped\": true}'")
    assert "expired at" not in engine.sentence(job_id)


def test_an_expired_key_is_named_though_another_worker_serves_its_types(engine: Engine) -> None:
    """Its type has a worker, so that no job shows that the other worker is rejected."""

    def signs() -> tuple[bool, list[bool]]:
        engine.lease_call(0, worker="w2")
        [line] = [line for line in engine.rpc("list_job_types")["types"] if line["waiting"] == 0]
        keys = [bool(worker["key_expired_at"]) for worker in line["serving"]]
        return "expired_key" in engine.findings(), keys

    expires = engine.now(50)
    with engine.as_role("job_worker", exp=int(expires.timestamp())) as worker:
        worker.rpc("lease_jobs", p_request=LOOK)
    assert signs() == (False, [False, False])
    engine.advance(200)
    assert signs() == (True, [False, True])
    found = engine.findings()["expired_key"]
    assert f"expired at {expires:%F %T}+00" in str(found)
    assert "WORKER_KEY" in remedy(found)
    ended = "update queue.workers set ended_at = %s where worker_id = 'w9'"
    engine.run(ended, expires)
    assert "expired_key" not in engine.findings()
    engine.run(ended, None)
    engine.advance(500)
    assert signs() == (False, [False, True])


def test_a_lost_lease_is_explained_by_known_times_alone(engine: Engine) -> None:
    """A worker may have worked on while the Data API was away, or while its key was expired."""
    job_id = engine.enqueue(max_attempts=1)
    expires = engine.now(50)
    with engine.as_role("job_worker", exp=int(expires.timestamp())) as worker:
        worker.lease_one()
    engine.advance(55)
    texts = [engine.findings()["silent_worker"], engine.explain(job_id)]
    engine.advance(5)
    texts.append(engine.explain(job_id))
    engine.maintain()
    for said in (*texts, engine.explain(job_id)):
        assert "last recorded call of" in said["sentence"]
        assert f"expired at {expires:%F %T}+00" in str(said)
        assert ("token worker" in str(said["next"])) == (said in texts)
    assert "Its lease expired once" in said["sentence"]


@pytest.mark.parametrize(("age", "is_named"), [(30, False), (86_400, True)])
def test_a_renewal_is_no_evidence_of_a_short_key(engine: Engine, age: int, is_named: bool) -> None:
    """A worker without free slots updates no row, and may have signed another key since."""
    job_id = engine.enqueue()
    now = int(engine.now().timestamp())
    with engine.as_role("job_worker", iat=now - age, exp=now + 600) as worker:
        lease = worker.lease_one()
    engine.advance(590)
    engine.report(lease, lease_seconds=60)
    engine.advance(20)
    assert ("expired at" in engine.sentence(job_id)) == is_named


def test_revoked_keys_leave_no_advice_to_wait(engine: Engine) -> None:
    """Workers without a key neither lease, nor report, nor run maintenance.

    A worker that signs in otherwise, or with a newer key, keeps its types and gets no such advice.
    """
    runs = engine.enqueue()
    with engine.as_role("job_worker") as worker:
        worker.lease_one()
    due = engine.enqueue(delay_seconds=1)
    engine.advance(2)
    asleep = engine.enqueue(priority=1)
    with engine.as_role("job_worker") as worker:
        worker.suspend(worker.lease_one(limit=1), kind="sleep", until=later(engine, 60))
    ids = [runs, due, asleep, *engine.enqueue_many(2)]
    now = engine.now()

    for grace, is_revoked in ((60, False), (0, True)):
        engine.rpc("revoke_worker_keys", p_before=now, p_grace_seconds=grace)
        for job_id in ids:
            advice = engine.explain(job_id)["next"]
            assert [each["kind"] != "act" for each in advice] == [not is_revoked]
            assert ("token worker" in str(advice)) == is_revoked
        assert (engine.explain(asleep)["estimated_start_at"] is None) == is_revoked

    engine.register("other")
    engine.lease_call(0, worker="keyless", job_types=["work", "other"])
    engine.rpc("revoke_worker_keys", p_before=now)
    for job_id in (due, engine.enqueue(job_type="other")):
        assert "token worker" not in str(said := engine.explain(job_id))
        assert said["reason"] != "no_processor"
    engine.advance(90)
    with engine.as_role("job_worker", iat=int(engine.now().timestamp())) as worker:
        worker.lease_call(0, worker="keyless", job_types=["work", "other"])
    engine.revoke_keys()
    assert "token worker" not in str(engine.explain(engine.enqueue(job_type="other")))


def test_a_worker_whose_key_was_revoked_is_not_said_to_hang(engine: Engine) -> None:
    """Other workers have a newer key, so the workers as a whole are not without a key."""
    job_id = engine.enqueue()
    now = int(engine.now().timestamp())
    with engine.as_role("job_worker", iat=now - 7200, exp=now + 7200) as worker:
        worker.lease_one()
    engine.revoke_keys()
    revoked = "select to_timestamp((queue.setting('worker_keys_revoked') #>> '{-1,from}')::bigint)"
    at = engine.one(revoked)
    for seconds in (5, 45):
        engine.advance(seconds)
        engine.lease_call(0, worker="w2")
        said = engine.explain(job_id)
        assert f"key of the worker was revoked at {at:%F %T}+00." in said["sentence"]
        assert remedy_command(said) == "minutehand token worker"
        assert not re.search("hung|event loop", str(said["next"]))
    found = engine.findings()["silent_worker"]
    assert f"Its key was revoked at {at:%F %T}+00." in found["sentence"]
    assert remedy_command(found) == "minutehand token worker"


def test_a_job_that_a_disabled_trigger_did_not_place_is_named(engine: Engine) -> None:
    """No worker can find such a job, so its explanation does not say that it will start."""
    engine.lease(1)
    with engine.undone():
        engine.run("alter table public.jobs disable trigger jobs_after_insert")
        insert = "insert into public.jobs (workspace_id, job_type) values (%s, 'work')"
        job_id = engine.one(f"{insert} returning id::text", ACME)
        assert "no worker finds it" in engine.sentence(job_id)
    # maintenance ends an overdue job that has left its table
    unstarted = engine.enqueue(delay_seconds=5, start_by_seconds=5)
    overdue, lease = engine.start(deadline_at=later(engine, 5))
    engine.advance(20)
    engine.lease_call(0, call=2)
    engine.settle(lease, "released")
    assert "no worker finds it" not in engine.sentence(overdue)
    engine.maintain()
    assert "no worker finds it" not in engine.sentence(unstarted)


def test_a_job_that_starts_itself_without_end_is_named(engine: Engine) -> None:
    """If ten of the nearest ancestors of a job have its type, its explanation has their number."""
    job_id = engine.enqueue()
    for depth in range(25):
        said = engine.explain(job_id)
        number = min(20, depth)
        counted = f"Of its {number} nearest ancestors, {number} are jobs of work too."
        assert (counted in said["sentence"]) == (depth >= 10)
        job_id = engine.enqueue(parent_id=job_id)
    assert remedy_command(said) == f"minutehand pause --type work --workspace {ACME}"
    assert "recursive_type" not in engine.findings()
    engine.lease(50)
    for workspace, is_named in ((None, True), (ACME, True), (GLOBEX, False)):
        assert ("recursive_type" in engine.findings(workspace)) == is_named
    assert "20 or more ancestors" in engine.findings()["recursive_type"]["sentence"]
    other = engine.explain(engine.enqueue(job_type="plain", parent_id=job_id))
    assert "ancestors" not in other["sentence"]
    for pause in ({"kind": "job_type"}, {"kind": "workspace_type", "workspace_id": ACME}):
        assert "recursive_type" in engine.findings()
        engine.pause(name="work", **pause)
        assert "recursive_type" not in engine.findings()
        engine.resume(name="work", **pause)


def test_a_scheduled_job_that_is_postponed_or_fails_before_its_time_is_named(
    engine: Engine,
) -> None:
    """Its explanation would otherwise only promise a start that never comes."""
    engine.lease(1)
    options: dict[str, Any] = {"unique": {"key": "k"}, "debounce_seconds": 60}
    job_id = engine.enqueue(**options)
    assert remedy(engine.explain(job_id)) == "Run it now."
    engine.advance(30)
    assert engine.enqueue(**options) == job_id
    said = engine.explain(job_id)
    assert "with its unique key last changed it at" in said["sentence"]
    assert said["estimated_start_at"] is None  # the next enqueue changes it again
    assert "enqueues with its key k postpone it" in remedy(said)
    late = engine.explain(engine.enqueue(delay_seconds=60, deadline_at=later(engine, 5)))
    assert "It fails if it has not ended at" in late["sentence"]
    assert "or it fails at" in remedy(late)
    at = later(engine, 90)
    for seconds, is_late in ((100, True), (60, False)):
        job_id = engine.enqueue(deadline_at=at, priority=1)
        engine.suspend(engine.lease_one(limit=1), kind="sleep", until=later(engine, seconds))
        said = engine.explain(job_id)
        assert ("It fails if it has not ended at" in said["sentence"]) == is_late
        assert ("It fails then." in remedy(said)) == is_late
        assert (said["estimated_start_at"] is None) == is_late


def test_what_will_hold_a_delayed_job_is_named_before_the_job_is_due(engine: Engine) -> None:
    """Otherwise the explanation would promise a start at a time that no worker keeps."""
    asleep = engine.enqueue()
    engine.suspend(engine.lease_one(), kind="sleep", until=later(engine, 60))
    retrying, lease = engine.start()
    engine.settle(lease, "retry", error=ERROR, retry_after_seconds=60)
    due = engine.enqueue(delay_seconds=1)
    timed = [asleep, retrying, engine.enqueue(delay_seconds=60)]
    engine.register("rare", rate_limit={"limit": 1, "per_seconds": 60})
    engine.enqueue_many(2, job_type="rare")
    engine.advance(2)
    engine.lease(1, job_types=["rare"], call=2)
    timed += engine.rows("select job_id::text from queue.ready")  # waits for the rate limit
    assert all(engine.explain(each)["estimated_start_at"] for each in timed)
    suspect = engine.enqueue()
    engine.run(
        "insert into queue.suspects (job_id, workspace_id, worker, company, since)"
        " select id, workspace_id, 0, id, queue.clock() from jobs where id = %s",
        suspect,
    )
    assert reason(engine, suspect) == "suspect"
    ids = [*timed, due, suspect]
    right = "grant execute on function public.lease_jobs(jsonb) to job_worker"
    for change, sentence, steps in (
        (
            "revoke execute on function public.lease_jobs from job_worker",
            " lack a right",
            [f"Grant the right: `{right}`.", "Notify the operator of the service, whose"],
        ),
        (
            'select pause_jobs(\'{"kind": "queue", "name": "default"}\')',
            "The queue default has been paused since ",
            ["An operator can resume the queue."] * 2,
        ),
        ("delete from queue.workers", "No call of a worker has completed", ["If none runs"] * 2),
        (
            "update queue.workers set job_types = '{other}';"
            " update queue.job_types set registered_at = '-infinity'",
            "No running worker serves the job type ",
            ["Start or deploy a worker that has `@processor"] * 2,
        ),
    ):
        with engine.undone():
            engine.run(change)
            shown = [(steps[0], engine.explain(each)) for each in ids]
            with engine.connection.transaction(force_rollback=True):
                engine.run("set local role authenticated")
                claims = "select set_config('request.jwt.claims', %s, true)"
                engine.run(claims, json.dumps({"role": "authenticated", "sub": ADA}))
                shown += [(steps[1], engine.explain(each)) for each in ids]
        for step, said in shown:
            assert sentence in said["sentence"]
            assert remedy(said).startswith(step)
            assert "wait" not in {each["kind"] for each in said["next"]}
            assert said["estimated_start_at"] is None


def test_jobs_that_only_fail_or_wait_are_a_finding(engine: Engine) -> None:
    """`explain_queue` reports a job type whose jobs are only snoozed and never complete.

    The explanation of such a job has the number of snoozes at each moment, also after a lost
    attempt.
    """
    job_id, lease = engine.start()
    lost: Json = {"type": "WorkerLost", "message": "x", "reason": "worker_lost", "company": 0}
    engine.settle(lease, "lost", error=lost)
    for _ in range(20):
        engine.settle(engine.lease_one(), "snoozed", delay_seconds=1)
        engine.elapse(2)
    lease = engine.lease_one()
    engine.report(lease, progress={"stage": "waiting", "message": "The model broke off."})
    engine.settle(lease, "snoozed", delay_seconds=60)
    assert engine.sentence(job_id).startswith("The model broke off. It waits until ")

    def check(reason: str) -> None:
        said = engine.explain(job_id)
        assert said["reason"] == reason
        assert "Its processor has snoozed it 21 times since" in said["sentence"]
        assert remedy(said).startswith("If 21 times is too often, see in its log and its code")
        assert "Its lease expired" not in said["sentence"]

    check("snoozed")
    engine.advance(61)
    check("due")
    engine.maintain()
    check("next_in_line")
    with engine.undone():
        engine.pause("job_type", "work")
        said = engine.explain(job_id)
        assert remedy(said) == "An operator can resume the type."
        assert said["next"][1]["words"].startswith("If 21 times is too often")
    lease = engine.lease_one()
    check("running")
    with engine.undone():
        engine.settle(lease, "retry", error={"type": "E", "message": "x"})
        assert "snoozed it" not in engine.sentence(job_id)
    engine.settle(lease, "snoozed", delay_seconds=60)
    engine.elapse(10)  # maintenance then updates the statistics
    for workspace in (ACME, None):
        found = engine.findings(workspace)["no_success"]
        assert "snoozed: 22." in found["sentence"]

    engine.elapse(60)
    engine.complete(engine.lease())
    engine.elapse(10)
    assert engine.findings() == {}


def test_jobs_that_retry_after_one_error_are_a_finding_with_the_error(engine: Engine) -> None:
    """`explain_queue` reports three jobs of a type in a workspace that retry after one error.

    It then does not also report that no job of the type completes.
    """
    ids = engine.enqueue_many(7)
    engine.enqueue_many(2, workspace=GLOBEX)
    for _ in range(3):
        leases = engine.lease(9)
        for number, lease in enumerate(leases):
            error = {"type": "ValueError", "message": f"port {number} is closed.\nTry later."}
            engine.settle(lease, "retry", error=error, retry_after_seconds=60 + number)
        engine.elapse(10)  # maintenance then updates the statistics
        said = [engine.overview(each) for each in (None, ACME)]
        engine.elapse(60)
    assert "no_success" not in engine.findings()  # retrying_jobs names the error
    assert said[0]["attention"] == said[1]["attention"]
    [shown], [listed] = said[0]["findings"], said[0]["attention"]
    assert said[1]["findings"][0]["sentence"] == shown["sentence"]
    assert re.fullmatch(
        r"7 jobs of work are retrying: ValueError: port 0 is closed\. Attempts used: 3 of 5, the"
        r" next due from 20.+? to 20.+?\. The first job started at 20.+\.",
        shown["sentence"],
    )
    assert [step["words"] for step in shown["next"]] == [
        "Correct what the error names.",
        "Then run these jobs now, or wait for their next attempts.",
    ]
    assert (listed["workspace_id"], listed["kind"], listed["jobs"]) == (ACME, "retrying", 7)
    assert listed["job_ids"] == sorted(ids, reverse=True)
    assert "command" not in shown["next"][1]  # no command is about all of these jobs
    assert shown["key"] == f"retrying_jobs work {listed['print']}"
    assert "retrying_jobs" not in engine.findings(GLOBEX)
    engine.run("update jobs set max_attempts = 4 where id = any (%s)", ids[:2])
    shown = engine.findings()["retrying_jobs"]
    assert "The next attempt is the last of 2 of them." in shown["sentence"]
    assert shown["next"][1]["words"] == (
        "2 of them have one attempt left: if it fails, the job fails for good. When the cause is"
        " gone, run these jobs now, or wait for their next attempts."
    )
    for running in (0, 2):  # the other retries are due
        engine.lease_call(running)
        for each in (ACME, None):
            found = engine.findings(each)["retrying_jobs"]
            assert (found["jobs"], found["since"]) == (7, shown["since"])
            assert ", the next due" not in found["sentence"]
    engine.enqueue_many(25, priority=1)
    for lease in engine.lease(30):
        engine.settle(lease, "retry", error={"type": "E"}, retry_after_seconds=0)
    engine.advance(1)
    engine.lease_call(0)
    group = engine.overview(ACME)["attention"][0]
    assert (group["error"], group["jobs"], group["more"]) == ("E: no reason given", 20, True)


def test_the_last_retries_of_a_problem_belong_to_it_until_they_end(engine: Engine) -> None:
    """While jobs fail one after the other, the number of jobs that need attention is constant."""
    others = [(ACME, {"type": "Other"}), (GLOBEX, ERROR)]
    for workspace, error in others:
        engine.enqueue(workspace=workspace)
        engine.settle(engine.lease_one(), "retry", error=error, retry_after_seconds=9000)
    engine.enqueue_many(4, max_attempts=3)
    for lease in engine.lease(4):
        engine.settle(lease, "retry", error=ERROR, retry_after_seconds=20)
    engine.elapse(20)
    leases = engine.lease(4)
    for failed in range(4):
        engine.elapse(10)  # maintenance then updates the statistics
        for each in (ACME, None):
            said = engine.overview(each)
            kinds = {group["kind"]: group["jobs"] for group in said["attention"]}
            assert (kinds.get("failed", 0), kinds["retrying"]) == (failed, 4 - failed)
        assert engine.overview(GLOBEX)["attention"] == []
        if failed < 3:
            engine.settle(leases[failed], "failed", error=ERROR)
    engine.settle(leases[3], "retry", error=ERROR, retry_after_seconds=60)
    shown = engine.findings(ACME)["retrying_jobs"]
    assert shown["sentence"].startswith("1 job of work is retrying: ")
    assert "The next attempt is the last. The first" in shown["sentence"]
    assert [step["words"] for step in shown["next"]] == [
        "Correct what the error names.",
        "It has one attempt left: if it fails, the job fails for good. When the cause is gone, run"
        " the job now, or wait for its next attempt.",
    ]
    engine.run("update jobs set max_attempts = 5 where status = 'pending'")
    words = "Then run the job now, or wait for its next attempt."
    assert engine.findings()["retrying_jobs"]["next"][1]["words"] == words


def test_due_retries_are_found_beside_ready_jobs_of_many_types(engine: Engine) -> None:
    others = [f"a{number}" for number in range(60)]
    for name in others:
        engine.register(name)
        engine.enqueue(job_type=name)
    engine.enqueue()
    engine.run_all()
    engine.enqueue_many(3)
    for lease in engine.lease(3):
        engine.settle(lease, "retry", error=ERROR, retry_after_seconds=20)
    for name in others:
        engine.enqueue(job_type=name)
    engine.elapse(10)  # maintenance then updates the statistics
    engine.advance(20)
    while engine.one("select count(*) from queue.turns") <= len(others):
        engine.lease_call(0)

    found = engine.findings(ACME)["retrying_jobs"]
    assert (found["jobs"], found["completed"]) == (3, 1)
    assert "completed in the last hour: 1." in found["sentence"]
    engine.elapse(400)
    assert engine.findings(ACME)["retrying_jobs"]["completed_until"] is None  # to 5 minutes exact
    engine.elapse(700)
    until = engine.findings(ACME)["retrying_jobs"]["completed_until"]
    assert engine.now(-1300) < datetime.fromisoformat(until) < engine.now(-600)


def test_jobs_of_a_type_in_two_queues_are_one_group(engine: Engine) -> None:
    """A group is known by its type, so two of them opened together in the console."""
    engine.lease_call(0, worker="w1", job_types=["other"], queues=["mail"])
    ids = [engine.enqueue(queue=queue) for queue in ("default", "mail", "mail")]
    engine.advance(200)
    [group] = engine.overview(ACME)["attention"]
    assert (group["jobs"], sorted(group["job_ids"])) == (3, ids)

    engine.lease_call(0, worker="w1", job_types=["work"], queues=["fax"])
    found = engine.findings(ACME)["no_processor"]
    assert "work in the queue default, work in the queue mail" in found["sentence"]
    assert "`minutehand serve --queue default --queue mail`" in remedy(found)


def test_jobs_that_failed_in_the_last_hour_need_attention(engine: Engine) -> None:
    """`attention` groups such jobs by error until they are retried, but they are no finding."""
    ids = [fail_one(engine, {"type": "KeyError", "message": "'card'\nin a.py"}) for _ in range(2)]
    fail_one(engine, {"type": "Boom", "message": "it broke"})
    engine.elapse(10)  # maintenance then updates the statistics
    for workspace in (ACME, None):
        said = engine.overview(workspace)
        assert (said["verdict"], said["findings"]) == ("pass", [])
        [newest, group] = said["attention"]
        assert newest["error"] == "Boom: it broke"
        assert (group["workspace_id"], group["kind"], group["jobs"]) == (ACME, "failed", 2)
        assert (group["error"], group["more"]) == ("KeyError: 'card'", False)
        assert [step["words"] for step in group["next"]] == [
            "Correct what the error names.",
            "Then retry these jobs. Finished steps are kept.",
        ]
        assert newest["next"][1]["command"] == f"minutehand retry {newest['job_ids'][0]}"
        assert sorted(group["job_ids"]) == sorted(ids)
    assert engine.overview(GLOBEX)["attention"] == []
    engine.retry(ids[0])
    [_, group] = engine.overview(ACME)["attention"]
    assert group["job_ids"] == ids[1:]
    engine.complete(engine.lease(1))
    late, lease = engine.start()
    started_at = engine.now()
    engine.settle(lease, "retry", error={"type": "Late"})
    engine.advance(900)
    engine.settle(engine.lease_one(), "failed", error={"type": "Late"})
    group = engine.overview(ACME)["attention"][0]
    assert (group["error"], group["job_ids"]) == ("Late: no reason given", [late])
    first = datetime.fromisoformat(group["since"])  # attempt with the error
    assert started_at < first < started_at + timedelta(seconds=60)
    engine.advance(3600)
    engine.lease_call(0)
    kinds = {one["kind"] for one in engine.overview(ACME)["attention"]}
    assert "failed" not in kinds


def test_an_error_of_one_worker_beside_another_that_completes_jobs_is_named(engine: Engine) -> None:
    engine.enqueue_many(10)
    for number, lease in enumerate(engine.lease(10)):
        engine.settle(lease, "retry" if number < 5 else "failed", error={"type": "Boom"})
    last = engine.enqueue()
    engine.settle(engine.lease_one(), "retry", error={"type": "Other"})
    for worker in ("w1", "w2"):
        engine.enqueue()
        engine.complete(engine.lease(1, worker=worker))
        said = engine.overview(ACME)
        for shown in (said["findings"][0], said["attention"][-1]):
            assert ("error: 5, all on worker w1. Worker w2 " in remedy(shown)) == (worker == "w2")
    # one attempt shows something about the code only if the versions differ
    assert "on worker" not in remedy(engine.explain(last))
    engine.run("update queue.workers set version = worker_id")
    assert "error: 1, all on worker w1 (w1). Worker w2 (w2)" in remedy(engine.explain(last))
    engine.enqueue_many(21)
    for lease in engine.lease(21, worker="w1"):
        engine.settle(lease, "retry", error={"type": "Late"})
    engine.enqueue()
    engine.complete(engine.lease(1, worker="w2"))
    assert "error of 20 of the jobs: 20, all on worker w1" in str(engine.overview(ACME))
    _, lease = engine.start()
    engine.report(lease, lease_seconds=900)
    for is_named in (True, False):  # until its renewal is overdue
        engine.advance(200)
        failed = [one for one in engine.overview(ACME)["attention"] if one["kind"] == "failed"]
        assert ("all on worker w1" in str(failed)) is is_named
    engine.lease_call(0, worker="w1")
    engine.run("update queue.workers set ended_at = queue.clock() where worker_id = 'w1'")
    assert "on worker w1" not in str([engine.explain(last), engine.overview(ACME)])


def fail_one(engine: Engine, error: Json) -> str:
    """Enqueue a job whose only attempt fails with an error."""
    job_id = engine.enqueue()
    engine.settle(engine.lease_one(), "failed", error=error)
    return job_id


def test_an_overdue_job_is_one_that_no_limit_or_pause_holds(engine: Engine) -> None:
    """`explain_queue` reports a job as overdue only if no limit and no pause stops it."""
    engine.register("one", max_concurrency=1)
    engine.enqueue_many(2, job_type="one")
    engine.register("paused")
    engine.pause("job_type", "paused")
    engine.enqueue(job_type="paused")
    engine.lease(1, job_types=["one"], lease_seconds=900)
    engine.advance(10)
    free = engine.enqueue()
    for call in (2, 3):
        engine.advance(150)
        engine.rpc(
            "lease_jobs", p_request=LOOK | {"call": call, "job_types": ["one", "paused", "work"]}
        )
    overdue = engine.findings()["overdue"]
    assert remedy_command(overdue) == f"minutehand explain {free}"
    assert overdue["sentence"].endswith("No limit holds it.")
    engine.complete(engine.lease(job_types=["work"]))
    assert "overdue" not in engine.findings()

    engine.enqueue_many(3)  # the only slot gets one job after another
    engine.advance(150)
    slots = [{"job_types": ["one", "paused", "work"], "limit": 1}]
    engine.run("update queue.workers set slots = %s", Jsonb(slots))
    engine.lease(1, job_types=["work"], worker="w9")
    assert "overdue" not in engine.findings()
    engine.advance(20)
    assert "Jobs of one, work use all slots" in engine.findings()["overdue"]["sentence"]
    engine.register("narrow", workspace_concurrency=1)
    engine.complete(engine.lease(9, job_types=["work"]))
    engine.enqueue_many(2, job_type="narrow")
    engine.advance(150)
    engine.lease(1, job_types=["narrow"])  # the next lease will find that the limit is reached
    assert "overdue" not in engine.findings()


def test_a_job_that_the_project_refuses_to_change_is_said(engine: Engine) -> None:
    """If a trigger of the project rejects a change of a job, `explain_job` returns the error.

    It also returns the error's time and a remedy.
    """
    sleeper, starter = engine.enqueue_many(2)
    engine.suspend(engine.lease(1)[0], kind="sleep", until=later(engine, 0))
    engine.add_trigger("before update", "raise 'no change';")
    engine.advance(2)
    at = engine.now()
    engine.maintain()
    engine.lease_call(1)

    for job_id, task in ((sleeper, "waits"), (starter, "lease")):
        said = engine.explain(job_id)
        assert (said["reason"], said["data"]["task"]) == ("refused", task)
        assert said["cause"].startswith("no change")
        assert str(at)[:19].replace(" ", "T") <= said["since"] < said["data"]["retry_at"]
        assert "trigger" in remedy(said)
    engine.run("drop trigger z_own on public.jobs")
    engine.elapse(6)
    assert reason(engine, sleeper) != "refused"
    engine.run_all()
    delayed = engine.enqueue(delay_seconds=1)
    engine.run("alter function queue.promote rename to planted")
    engine.elapse(2)
    said = engine.explain(delayed)
    assert "queue.promote" in said["cause"]
    assert "trigger" not in str(said["next"])
    for shown in (said, engine.findings()["failing_maintenance"]):
        assert remedy_command(shown).startswith("minutehand doctor")


#: Fields of the error of each failed job, and a word of the expected advice.
ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"type": "AttemptTimeout"}, "traceback"),
    ({"type": "DeadlinePassed"}, "no deadline"),
    ({"type": "httpx.ReadTimeout"}, "what the error names"),
    ({"errno": "TimeoutError"}, "its time limit (TimeoutError)"),
    ({"status": 401}, "credentials"),
    ({"sqlstate": "28P01"}, "credentials"),
    ({"type": "psycopg.OperationalError"}, "a limit of connections"),
    ({"status": 403}, "The server refused the call (HTTP 403). Correct"),
    ({"status": 403, "response": "{}"}, "; its answer says why."),
    ({"sqlstate": "42501"}, "Grant that role the right"),
    (
        {"sqlstate": "42501", "message": "permission denied for table orders"},
        "The role of the connection, or the owner of a `security definer` function that it calls, "
        "lacks a right on table orders",
    ),
    ({"sqlstate": "42501", "role": "job_worker"}, "The role job_worker, or the owner"),
    ({"type": "Fail"}, "Follow the text of the error."),
    (
        {"type": "minutehand.ai.errors.UnusableOutput", "address": "api.test:443"},
        "The model at api.test:443 gave no usable answer. Try again",
    ),
    (
        {"type": "minutehand.ai.errors.LanguageModelError", "data": {"hope": "none"}},
        "Correct what the error names.",
    ),
    (
        {"type": "minutehand.queue.errors.ProcessorError", "data": {"code": "answer_unusable"}},
        "The model gave no usable answer.",
    ),
    ({"type": "json.decoder.JSONDecodeError"}, "The text that the code read is not JSON."),
    ({"type": "aiohttp.client_exceptions.ContentTypeError"}, "code read is not JSON."),
    (
        {"type": "requests.exceptions.JSONDecodeError", "address": "api.test:443"},
        "The answer of api.test:443 is not JSON. See how it begins",
    ),
    (
        {"sqlstate": "42501", "message": "permission denied for table leases"},
        "Otherwise call the functions of Minutehand",
    ),
    (
        {"sqlstate": "42501", "message": "permission denied for schema queue"},
        "make it `security definer`",
    ),
    (
        {"sqlstate": "42501", "message": 'violates row-level security policy for table "orders"'},
        "Correct the row or the policies.",
    ),
    (
        {"sqlstate": "42501", "message": "permission denied for table settings"},
        "If table settings belongs to Minutehand, call its functions",
    ),
    ({"sqlstate": "42501", "status": 403}, "(SQLSTATE 42501)"),
    ({"sqlstate": "42883", "status": 404}, "lacks"),
    ({"sqlstate": "PGRST202", "status": 404}, "`minutehand doctor`"),
    ({"sqlstate": "40P01"}, "transaction"),
    ({"sqlstate": "55P03"}, "a lock of another session"),
    ({"sqlstate": "42P05"}, "has it already (SQLSTATE 42P05), as with a pooler"),
    ({"sqlstate": "42702"}, "cannot run the query (SQLSTATE 42702). Correct"),
    ({"errno": "ENOMEM"}, "more memory"),
    ({"sqlstate": "57014"}, "statement_timeout"),
    ({"signal": "SIGKILL"}, "by SIGKILL"),
    ({"variable": "VENDOR_KEY"}, "Set the environment variable VENDOR_KEY"),
    ({"errno": "ENOSPC"}, "a file system on the machine of the worker is used up"),
    ({"errno": "EDQUOT", "path": "/tmp/a"}, "the file system of /tmp/a on"),
    ({"errno": "EMFILE"}, "its limit of open files"),
    ({"errno": "EACCES", "path": "/srv/a"}, "may not use /srv/a (EACCES). Give its"),
    ({"errno": "EACCES"}, "what the error names"),
    ({"errno": "ENOENT", "program": "lp"}, "Install the program lp, or"),
    ({"module": "jwt"}, "Add the package of the module jwt"),
    ({"errno": "BrokenProcessPool"}, "A process of its pool ended"),
    ({"errno": "SQLITE_BUSY"}, "has locked the SQLite database"),
    ({"errno": "SMTP 535"}, "Fix the credentials, which"),
    ({"errno": "SMTP 554"}, "Fix the request"),
    ({"errno": "SMTP 451"}, "could not serve the request (SMTP 451)"),
    ({"status": 407}, "Fix the credentials for the proxy, which"),
    ({"status": 302}, "The server answered with a redirect (HTTP 302)"),
    ({"sqlstate": "22012"}, "rejected a value or a calculation"),
    (
        {"type": "minutehand.worker.streams.OutputRefused"},
        "raise the setting `output_max_bytes`, which is 1000000.",
    ),
    (
        {"type": "minutehand.queue.errors.FunctionTimeout", "errno": "TimeoutError"},
        "says whether both answer",
    ),
    (
        {"type": "minutehand.queue.errors.QueueUnavailable", "errno": "TimeoutError"},
        "`minutehand status`",
    ),
    ({"errno": "WRONG_VERSION_NUMBER"}, "If this port has no TLS"),
    ({"errno": "EOF"}, "closed or rejected"),
    ({"sqlstate": "53100"}, "ran out of a resource"),
    ({"sqlstate": "53300"}, "Jobs of this type may hold them"),
    ({"sqlstate": "57P01"}, "closed or rejected"),
    ({"errno": "ECONNREFUSED", "variable": "HOST"}, "service is up"),
    ({"errno": "ENETUNREACH"}, "and the network"),
    ({"errno": "ConnectTimeout"}, "cannot be reached (ConnectTimeout)"),
    ({"errno": "PoolTimeout"}, "All connections of the client were in use"),
    ({"errno": "PoolTimeout", "type": "psycopg_pool.PoolTimeout"}, "The pool had no free"),
    ({"errno": "PoolTimeout", "type": "sqlalchemy.exc.TimeoutError"}, "The pool had no free"),
    ({"errno": "LocalProtocolError"}, "The client rejected its own request"),
    ({"errno": "Closed"}, "that was already closed"),
    ({"errno": "dlopen", "path": "libvips.so.42"}, "The library libvips.so.42, or one"),
    ({"errno": "AccessDeniedException", "status": 400}, "refused the call (AccessDeniedException)"),
    ({"errno": "UnrecognizedClientException", "status": 400}, "Fix the credentials"),
    ({"errno": "NoCredentialsError"}, "which are missing"),
    ({"errno": "ProvisionedThroughputExceededException", "status": 400}, "rate_limit"),
    ({"errno": "ThrottlingException", "status": 400}, "rate_limit"),
    ({"sqlstate": "2200H"}, "A sequence has no further number"),
    ({"errno": "CERTIFICATE_VERIFY_FAILED"}, "trust its issuer"),
    ({"type": "WorkerLost"}, "Whether its process ended is unknown"),
    (
        {"type": "WorkerLost", "evidence": {"signal": "SIGKILL", "memory_mb": 97}},
        "used up to 97 MB. The system sends SIGKILL",
    ),
    ({"type": "WorkerLost", "evidence": {"signal": "SIGSEGV"}}, "SIGSEGV usually"),
    (
        {"type": "WorkerLost", "evidence": {"signal": "SIGABRT", "memory_mb": 480}},
        "used up to 480 MB. SIGABRT usually comes from a library in C. Update the library, or "
        "avoid the call. If memory ran out, which",
    ),
    ({"type": "WorkerLost", "evidence": {"signal": "SIGHUP"}}, "sent SIGHUP"),
    (
        {"type": "WorkerLost", "evidence": {"exit_code": 1, "stack": ["Timeout (0:00:49)!"]}},
        "to_thread",
    ),
    ({"type": "WorkerLost", "evidence": {"exit_code": 1}}, "ended itself (exit code 1)"),
    ({"status": 429}, "rate_limit"),
    ({"status": 503}, "(HTTP 503)"),
    ({"errno": "EAI_NONAME"}, "host name in its address"),
    (
        {"errno": "EAI_NONAME", "message": "failed to resolve host 'db.test': [Errno -2] no"},
        "The host name db.test cannot",
    ),
    ({"type": "PayloadRejected"}, "payload"),
    ({"type": "SettleRejected"}, "trigger, constraint or value"),
    (
        {"type": "SettleRejected", "message": "the database rejected the outcome completed: no"},
        "Its processor had finished, and a retry runs it again. Correct",
    ),
    (
        {"type": "DeadlineReached"},
        "what the error names",
    ),  # the worker's time ran out, not the job's
]


def test_advice_follows_what_an_error_is(engine: Engine) -> None:
    """The advice for a failed job depends on the error's HTTP status, SQLSTATE or system code.

    It does not depend on the name of the error's class, except for the project's own classes, and
    for the `OperationalError` of database drivers, which may have no code. The advice is the same
    before the last attempt.
    """
    engine.run("create table public.settings ()")
    for fields, advice in ERRORS:
        job_id = engine.enqueue()
        error = {"type": "E", "message": "x"} | fields
        for outcome in ("retry", "failed"):
            engine.settle(engine.lease_one(), outcome, error=error)

            steps = engine.explain(job_id)["next"]
            words = " ".join(step["words"] for step in steps)
            assert advice in words, error
            assert outcome != "retry" or "retry the job" not in words  # it can only run now
            assert all(step["path"].startswith("/") for step in steps)
            engine.advance(100)


def test_the_program_with_the_most_connections_is_named(engine: Engine) -> None:
    """Only the idle sessions of that program are ended. Those of Supabase get no statement."""
    findings = "select data from queue.findings_of_connections(%s)"
    assert engine.rows(findings, 2) == []
    engine.run("create role reports login password 'reports'")
    reports = {"user": "reports", "password": "reports"}
    cases = [("the 'report'", reports), ("PostgREST 14", reports), ("", reports), ("report", {})]
    for name, login in cases:
        with ExitStack() as sessions:
            for _ in range(30):
                sessions.enter_context(engine.database.connect(**login, application_name=name))
            data = engine.one(findings, 0)
            assert data["limit"] == int(engine.one("show max_connections"))
            render = "select queue.render_guidance('used_up_connections', %s)"
            said = engine.one(render, Jsonb(data))
            assert f"The application {name or 'without a name'} (role " in said["sentence"]
            assert "has the most: 3" in said["sentence"]
            assert ("pg_terminate_backend" in remedy(said)) is (name == "the 'report'")
            idle = f"select count(*) from pg_stat_activity where {data['idle'] or 'false'}"
            assert engine.one(idle) == (30 if data["idle"] else 0)
    engine.run("drop role reports")


@pytest.mark.parametrize(
    ("message", "address"),
    [
        ("smtp.acme.test:587 refused the connection", "smtp.acme.test:587"),
        ("[Errno 111] Connect call failed ('127.0.0.1', 587)", "127.0.0.1:587"),
        ('connection to server at "localhost", port 5432 failed', "localhost:5432"),
        ("HTTPConnectionPool(host='db.acme.test', port=80): Max retries", "db.acme.test:80"),
        ("for url 'https://ada.lee:1234@acme.test/v1?q=1'", "acme.test"),
        ("at 12:30 in hello.py:37 of version 1.2", "the other service"),
    ],
)
def test_advice_for_a_refused_connection_names_the_address(
    engine: Engine, message: str, address: str
) -> None:
    error = {"type": "ConnectionRefusedError", "message": message, "errno": "ECONNREFUSED"}
    job_id = fail_one(engine, error)
    words = engine.explain(job_id)["next"][0]["words"]
    assert words.startswith(f"Check that {address} is up and accepts connections")
    known = fail_one(engine, error | {"address": "proxy.test:3128"})
    assert "Check that proxy.test:3128 is up" in remedy(engine.explain(known))


def test_every_reason_says_what_to_do_next(engine: Engine) -> None:
    """Every reason that `explain_job` or `explain_queue` can return has advice.

    A sentence or advice has no gap if a value is missing: it uses other words, or is omitted.
    """
    sources = engine.rows(
        "select prosrc from pg_proc where proname ~ '^(explain_|findings_)'"
        " and proname <> 'findings_of_webhooks'"  # the example apps have their own sentences
    )
    words = r"(?:'reason', |'warn', |'fail', |then |else |end,\s+)'([a-z_]+)'"
    said = re.findall(words, " ".join(sources))
    known = set(engine.rows("select replace(reason, 'failed:', '') from queue.guidance"))
    assert {"refused", "backing_off", "overdue"} <= set(said)
    names = {"warn", "fail", "reason", "data", "waiting_for_", "ahead", "smaller"}
    assert set(said) - known <= names
    texts = "concat_ws(' ', sentence, words, command, path)"
    for reason, text in engine.rows(f"select reason, {texts} from queue.guidance"):
        for part in (text, re.sub(r"\[[^]]*\]", "", text), ""):
            values = Jsonb(dict.fromkeys(re.findall(r"\{(\w+)\}", part), "x"))
            words = engine.one("select queue.render_guidance(%s, %s)", reason, values)
            for said in (words["sentence"], *(each for n in words["next"] for each in n.values())):
                assert said is None or re.fullmatch(r"(?!.*(\{\w+\}|[:(,] ?[.)]))\S.*", said), said


def test_a_completed_job_names_an_answer_that_did_not_come(engine: Engine) -> None:
    job_id, lease = engine.start()
    engine.suspend(lease, "approve", kind="ask", prompt="Send it?", until=later(engine, 5))
    engine.elapse(10)
    engine.settle(engine.lease_one())
    assert engine.sentence(job_id).endswith(". No answer came in time for its question approve.")


def test_what_is_wrong_with_the_whole_is_said_once(engine: Engine) -> None:
    """`explain_queue` returns each problem once, with its time, cause and next step."""
    engine.lease(1)
    assert engine.findings() == {}
    engine.advance(30)
    engine.enqueue()
    engine.settle(engine.lease_one(limit=1))
    engine.enqueue()
    engine.pause("job_type", "work", reason="no")
    engine.advance(300)

    said = engine.overview()

    found = {each["reason"]: each for each in said["findings"]}
    assert (said["verdict"], list(found)) == ("fail", ["no_worker", "job_type_paused"])
    assert said["last_tick_seconds"] < 330
    assert found["job_type_paused"]["cause"] == "no"
    assert remedy_command(found["job_type_paused"]) == "minutehand resume --type work"


def fill_disk(engine: Engine, share: float) -> None:
    """Set the size of the disk so that the databases use this share of it."""
    size = "select (sum(pg_database_size(oid)) + (select sum(size) from pg_ls_waldir()))::bigint"
    engine.set(disk_bytes=int(engine.one(f"{size} from pg_database") / share))


def test_a_disk_that_fills_up_is_said_before_it_is_full(engine: Engine, ada: Engine) -> None:
    """If operators have set the disk's size, they get a finding before the disk is full.

    Members of a workspace get one without the size once the disk is nearly full.
    """
    engine.lease(1)

    def said(share: float) -> list[str]:
        """Return the findings while the databases use this share of the disk."""
        fill_disk(engine, share)
        return list(engine.findings())

    assert said(0.2) == []
    until(lambda: said(0.85) == ["disk_filling"])
    assert ada.findings(ACME) == {}
    assert said(5) == ["wrong_disk_size"]
    assert "disk_bytes is smaller than what is stored" in str(engine.rpc("queue_health"))
    assert ada.findings(ACME) == {}
    assert said(0.95) == ["disk_nearly_full"]
    shown = ada.findings(ACME)
    assert (list(shown), shown["service_full"]["cause"]) == (["service_full"], None)
    engine.set(disk_bytes=None)  # the default
    assert engine.findings() == {}


def test_a_read_only_database_is_not_said_to_have_a_full_disk(engine: Engine) -> None:
    """Only a disk that is known to be full is freed. No job is said to continue while it lasts."""
    runs, _ = engine.start()
    waits = engine.enqueue()
    engine.advance(50)
    with engine.another_session() as session:
        name = session.one("select current_database()")
        session.run("set default_transaction_read_only = on")
        of_session = session.findings()["read_only"]
        said = [session.explain(runs), session.explain(waits), session.findings()["silent_worker"]]
    turn = f"alter database {name} {{}} default_transaction_read_only"
    engine.run(turn.format("set") + " = on")
    with engine.another_session() as session:
        known = session.findings()["read_only"]
        session.run(remedy(known).split("`")[1])
        session.run("set default_transaction_read_only = off")
        fill_disk(session, 0.95)
        session.run("set default_transaction_read_only = on")
        full = session.findings()["read_only"]
        for advised in remedy(full).split("`")[1::2]:
            session.run(advised)
    assert "whose value comes from the session." in remedy(of_session)
    assert f"read write; {turn.format('reset')}; commit`, then restart" in remedy(known)
    assert not re.search("retention|vacuum|Supabase sets", str([of_session, known]))
    assert " % full, and Supabase sets it when" in full["sentence"]
    assert "vacuum full" in remedy(full)
    for each in said:
        assert remedy_command(each) == "minutehand status"
        assert not re.search("Nothing to do|again at the latest", str(each["next"]))


def test_a_resume_says_what_still_stops_the_jobs(engine: Engine, ada: Engine) -> None:
    """The response to a resume lists the other pauses that still stop the jobs.

    A second pause keeps the first pause's reason.
    """
    job_id = engine.enqueue()
    here = ("workspace_type", "work")
    engine.pause("job_type", "work", reason="on fire")
    engine.pause("job_type", "work")
    engine.pause(*here, workspace_id=ACME)

    said = engine.resume(*here, workspace_id=ACME)
    assert (said["paused"], [each["reason"] for each in said["left"]]) == (True, ["on fire"])
    assert "operator" in remedy(said["left"][0])
    engine.run("update queue.pauses set paused_by = %s", EVE)
    said = engine.explain(job_id)
    assert (said["reason"], said["cause"]) == ("job_type_paused", "on fire")
    assert EVE in str(said)
    assert EVE not in str(ada.explain(job_id))
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00\.$", said["sentence"])

    assert engine.resume("job_type", "work")["paused"] is False


def test_a_session_that_holds_a_row_is_named(engine: Engine, ada: Engine) -> None:
    """If a database session locks a job's row, `explain_job` names the session.

    Members of a workspace do not see the session's application name.
    """
    delayed = engine.enqueue(delay_seconds=5)
    runs, lease = engine.start()
    with engine.open_transaction() as session:
        lock = "select from public.jobs where id = any (%s::uuid[]) for update"
        session.run("set local application_name = 'psql on a foreign host'")
        session.run(lock, [runs, delayed])
        pid = session.one("select pg_backend_pid()")
        engine.advance(20)

        for job_id in (runs, delayed):
            held = engine.explain(job_id)["held_by"]
            assert (held["kind"], held["holder"]["pid"]) == ("lock", pid)
            assert f"pg_terminate_backend({pid})" in held["act"]["words"]
        [line] = engine.overview()["holders"]
        assert (line["kind"], line["job_id"], line["jobs"]) == ("lock", delayed, 1)
        assert "so it can neither start nor end" in engine.sentence(delayed)
        said = ada.explain(runs)
        assert "so it cannot end" in said["sentence"]
        assert said["held_by"]["holder"] == {"pid": pid}
        assert "foreign host" not in str(said)
        assert f"Session {pid} belongs to psql on a foreign host." in engine.sentence(runs)
        assert remedy(said).startswith("If the job called the SQL function that this session runs")
        assert remedy(engine.explain(delayed)).startswith("End that session")
        session.run("rollback; begin")
        assert reason(engine, runs) == "running"

        # The session that has the row may wait for another one, which has not locked the row.
        with engine.another_session() as waiting:
            session.run("select pg_advisory_xact_lock(7)")
            waiting.run("begin")
            waiting.run(lock, [runs])
            locker = waiting.one("select pg_backend_pid()")
            blocked = waiting.blocked(waiting.run, "select pg_advisory_xact_lock(7)")
            engine.advance(10)
            said = engine.explain(runs)
            session.run("rollback; begin")
            blocked.result()
            waiting.run("rollback")
        row = f"A session (pid {locker}) has locked its row, and waits for the session with pid"
        assert said["sentence"].startswith(f"{row} {pid},")
        assert f"pg_terminate_backend({pid})" in remedy(said)

        # A lock for a foreign key (FOR KEY SHARE) does not prevent a job from running.
        session.run("select from public.jobs where id = %s for key share", runs)
        engine.advance(10)
        assert reason(engine, runs) == "running"

        # The processor of the job has opened the session.
        session.run("rollback; begin")
        pulse = PULSE | {"pid": 1, "own_pids": [pid]}
        engine.report(lease, pulse=pulse, lease_seconds=900)
        session.run(lock, [runs, delayed])
        engine.advance(100)
        opened = f" Job {runs} has opened a session with pid {pid}, in this or another database."
        found = engine.findings()["open_transaction"]
        for said in (engine.explain(runs), engine.explain(delayed), ada.explain(runs), found):
            assert opened in said["sentence"]
            assert remedy(said).startswith(f"If it is the session of job {runs}, commit it in the")
        with engine.undone():  # an earlier session had the same pid
            began_at = session.one("select now()")
            earlier = "expires_at = %s - interval '1 ms' + interval '900 seconds'"
            engine.run(f"update queue.leases set {earlier}", began_at)
            assert opened not in engine.sentence(delayed)
        with engine.undone():  # the job's call runs in the session itself
            engine.run("update queue.leases set pulse = pulse || %s", Jsonb({"pid": pid}))
            said = engine.explain(delayed)
            assert opened in said["sentence"]
            assert remedy(said).startswith("End that session if no one needs it")
        engine.run("update queue.leases set workspace_id = %s", GLOBEX)
        assert remedy(ada.explain(delayed)) == (
            "Wait for the end of a job of another workspace, which it runs."
        )
        assert runs not in str(ada.explain(delayed))


def test_a_worker_that_waits_in_a_trigger_is_not_a_session_to_end(
    engine: Engine, bob: Engine
) -> None:
    """The session is the worker's own call, which a slow trigger of the project delays."""
    runs, lease = engine.start()
    job_id = engine.enqueue()
    engine.add_trigger("before update", "perform pg_sleep(60); return new;", f"new.id = '{job_id}'")
    with engine.another_session() as worker, engine.another_session() as waiting:
        pid, waits = (each.one("select pg_backend_pid()") for each in (worker, waiting))
        leased = engine.blocked(worker.lease_call)
        engine.report(lease, pulse=PULSE | {"pid": waits}, lease_seconds=900)
        engine.advance(70)
        opened = engine.findings()["open_transaction"]
        read = f"select from public.jobs where id = '{job_id}' for update"
        blocked = waiting.blocked(waiting.run, read)
        shown = engine.explain(job_id), opened, engine.findings()["blocking_session"]
        hidden, said_of_running = bob.explain(job_id), engine.explain(runs)
        engine.run("select pg_cancel_backend(%s)", pid)
        assert isinstance(leased.exception(), psycopg.errors.QueryCanceled)
        blocked.result()
        engine.run("drop trigger z_own on public.jobs")
        engine.run(
            "create constraint trigger z_own after update on public.jobs deferrable initially"
            " deferred for each row execute function public.own()"
        )
        worker.run("begin; update public.jobs set updated_at = updated_at")
        committed = engine.blocked(worker.run, "commit")
        engine.advance(70)
        late = engine.findings()["open_transaction"]
        engine.run("select pg_cancel_backend(%s)", pid)
        assert isinstance(committed.exception(), psycopg.errors.QueryCanceled)
    assert late["sentence"].endswith("It runs commit and waits (PgSleep).")
    for said in shown:
        assert said["sentence"].endswith("It runs lease_jobs and waits (PgSleep).")
    for said in (*shown, late):
        assert "z_own" in remedy(said)
        assert "pg_terminate_backend" not in str(said)
    assert "z_own" not in str(hidden)
    assert remedy(hidden) == "Wait for the end of lease_jobs, which it runs."
    assert "locked the table" not in said_of_running["sentence"]
    assert remedy(said_of_running) == f"Wait for the end of lease_jobs, which session {pid} runs."


def test_workers_with_free_slots_that_lease_nothing_are_named(
    engine: Engine, ada: Engine, bob: Engine
) -> None:
    """A job behind others gets no advice to wait for them, and managers see the own triggers."""
    engine.add_trigger("before update", "return new;")
    slots = [{"job_types": ["work"], "limit": 4}]
    engine.enqueue()
    ids = [engine.enqueue() for _ in range(3)]
    engine.advance(1)
    [lease] = engine.lease(1, slots=slots)
    said = []
    for _ in range(2):
        engine.advance(40)
        engine.report(lease)
        said.append(engine.explain(ids[2]))
    assert [each["reason"] for each in said] == ["behind_others", "not_leased"]
    assert "use 1 of 4 slots, but have leased nothing since" in said[1]["sentence"]
    assert said[1]["next"][0]["command"] == "minutehand doctor"
    own = "takes long: z_own (function public.own). Check the rights and logs"
    assert own in remedy(said[1])
    assert own in remedy(ada.explain(ids[2]))
    assert "z_own" not in str(bob.explain(ids[2]))


def test_a_session_for_which_a_processor_waits_is_named(engine: Engine) -> None:
    """If a processor's query waits for a lock, `explain_job` names the session that has the lock.

    If that session waits for another session, the advice is to end the last session of the chain.
    """
    job_id, lease = engine.start()
    with ExitStack() as ends:
        owner, between, waiting = (ends.enter_context(engine.another_session()) for _ in range(3))
        owner.run("select pg_advisory_lock(7)")
        between.run("select pg_advisory_lock(8)")
        pids = [each.one("select pg_backend_pid()") for each in (owner, waiting)]
        middle = between.blocked(between.run, "select pg_advisory_xact_lock(7)")
        blocked = waiting.blocked(waiting.run, "select pg_advisory_xact_lock(8)")
        pulse = PULSE | {"pid": pids[1], "own_pids": [pids[0]]}
        engine.report(lease, pulse=pulse, lease_seconds=900)
        engine.advance(11)  # the job is not yet silent
        early = engine.explain(job_id)
        engine.advance(290)

        said, found = engine.explain(job_id), engine.findings()
        owner.run("select pg_advisory_unlock(7)")
        middle.result()
        between.run("select pg_advisory_unlock(8)")
        blocked.result()
    waits = f"(pid {pids[1]}) waits for a lock of the session with pid {pids[0]}"
    assert all(waits in each["sentence"] for each in (early, said))
    assert f"(pid {pids[1]})" not in str(found)
    for step in (early["next"][0], said["next"][0], found["blocking_session"]["next"][0]):
        assert f"pg_terminate_backend({pids[0]})" in step["words"]
    assert "In code, commit that session" in remedy(said)
    assert "pg_terminate" not in str(engine.explain(job_id))


@pytest.mark.parametrize(
    ("table", "mode"),
    [("public.jobs", "share row"), ("public.jobs", "access"), ("queue.leases", "access")],
)
def test_a_session_that_locks_a_table_of_the_queue_is_named(
    engine: Engine, ada: Engine, table: str, mode: str
) -> None:
    """A finding names a session that locks a table, although no call waits for long.

    Its time does not move, and it needs no read of the table, which would wait too. `queue_health`
    then fails with its sentence, because the age of the oldest due job is unknown, and so does
    `explain_job`.
    """
    job_id, _ = engine.start()
    with engine.open_transaction(f"lock table {table} in {mode} exclusive mode") as session:
        pid, at = session.one("select pg_backend_pid(), to_json(now()) #>> '{}'")
        engine.run("set lock_timeout = '1s'")
        engine.advance(11)
        for _ in range(2):
            found = engine.findings()["blocking_session"]
            assert found["since"] == at
        hidden = ada.findings(ACME)["service_locked"]
        if mode != "access":
            session.run("create temp table another (n int)")  # its lock does not concern the queue
            said = engine.explain(job_id)
            assert f"(pid {pid}) has locked the table {table} in an open" in said["sentence"]
            assert f"pg_terminate_backend({pid})" in said["held_by"]["act"]["words"]
        else:
            assert refused(engine.rpc, "queue_health")[:2] == ("PT503", "busy")
            with ExitStack() as stack:  # a new session must read the columns of the table first
                new = stack.enter_context(engine.another_session())
                for who in (new, ada):
                    who.run("set lock_timeout = '1s'")
                    with pytest.raises(psycopg.Error, match=f"locked the table {table}") as error:
                        who.explain(job_id)
                    names_it = f"pg_terminate_backend({pid})" in str(error.value)
                    assert names_it == (who is new)
    assert f"has locked the table {table}" in found["sentence"]
    assert f"pg_terminate_backend({pid})" in remedy(found)
    assert f"pid {pid}" not in str(hidden)


def test_a_session_that_locks_a_row_for_a_moment_is_not_named(engine: Engine) -> None:
    """A session that locks a job's row only for a moment is not named in the job's explanation."""
    job_id, _ = engine.start()
    with engine.another_session() as worker:
        engine.run("begin; select from pg_stat_activity")  # the list is from this moment
        worker.run(f"begin; select from public.jobs where id = '{job_id}' for update")
        assert reason(engine, job_id) == "running"
        engine.run("commit")


def test_a_job_that_ends_while_it_is_explained_is_explained_as_it_is(
    engine: Engine, ada: Engine
) -> None:
    """A waiting job may end after `explain_job` has read the job's row."""
    job_id, lease = engine.start()
    engine.suspend(lease, kind="event", event="paid")
    with engine.open_transaction() as session:
        # the check of the caller's membership comes after the first read of the job
        session.run("lock table public.workspace_members in access exclusive mode")
        explained = engine.blocked(ada.explain, job_id)
        session.cancel(job_id)
    assert explained.result()["reason"] == "cancelled"


def test_a_misspelt_event_and_the_faults_of_a_payload_are_named(engine: Engine) -> None:
    """An emitted event with other numbers has another subject, so it is not called similar."""
    waits, lease = engine.start()
    engine.suspend(lease, kind="event", event="invoice-1-02-payed")
    for emitted, is_similar in (("invoice-12-payed", False), ("invoice-01-2-payed", True)):
        engine.rpc("emit_event", p_workspace_id=ACME, p_name=emitted, p_payload=Jsonb({}))
        said = engine.explain(waits)
        assert (f"similar name {emitted}" in said["sentence"]) == is_similar
        assert ("correct the code that emits it" in said["next"][0]["words"]) == is_similar
        assert said["next"][-1]["words"].startswith("Emit invoice-1-02-payed:")

    fails, lease = engine.start()
    problems = [{"path": ["iban", 0], "message": "too long"}, {"path": [], "message": "wrong"}]
    error = {"type": "PayloadRejected", "message": "x", "data": {"problems": problems}}
    engine.settle(lease, "failed", error=error)
    assert engine.explain(fails)["cause"] == "iban.0: too long; wrong"
    assert "with a payload that fits the type" in remedy(engine.explain(fails))
    engine.run("update queue.workers set version = '1+0ld'")
    newest = {"job_type": "work", "commit": "newest", "deployed_at": "2026-01-01T00:00:00Z"}
    engine.rpc("register_job_types", p_types=[newest])
    stale = engine.explain(fails)
    for change in (  # it may run the newest code now, or have run it then
        "workers set ended_at = queue.clock()",
        "workers set started_at = queue.clock()",
        "workers set version = '1'",
        "job_types set deployed_at = queue.clock()",
    ):
        with engine.undone():
            engine.run(f"update queue.{change}")
            assert "with a payload that fits" in remedy(engine.explain(fails))
    with engine.undone():  # the newest code may have the upcaster
        engine.run("update queue.job_types set schema_version = 2")
        assert "upcaster" not in str(engine.explain(fails)["next"])
    error["data"] = {"problems": []}
    behind, lease = engine.start()
    engine.settle(lease, "failed", error=error)
    for said, words in (
        (stale, "(1+0ld) does not run the newest deploy of the type, commit newest."),
        (engine.explain(behind), "is older than the payload, whose version is 1."),
    ):
        assert remedy(said) == (
            f"Worker w1 {words} Deploy the newest code there, or stop it. Then retry the job."
        )
        assert "that fits the type" not in str(said["next"])
    with engine.undone():
        engine.run("update jobs set schema_version = 2 where id = %s", behind)
        engine.run("update queue.workers set ended_at = queue.clock()")
        assert "upcaster" not in str(engine.explain(behind)["next"])

    # the first line is that of a task group's error
    for line, text, cause in ((1, "e", None), (2, "e", "E: e"), (2, "E", "E")):
        fails, lease = engine.start()
        causes = [{"type": "E", "message": text, "frames": [{"file": "a.py", "line": line}]}]
        frames = [{"file": "a.py", "line": 1}]
        error = {"type": "E", "traceback": {"frames": frames, "causes": causes}}
        engine.settle(lease, "failed", error=error)
        said = engine.explain(fails)
        assert (said["cause"], "at a.py:1" in remedy(said)) == (cause, True)

    # an earlier attempt's cause is not that of another state, or of another error
    for outcome in ("failed", "completed"):
        engine.retry(fails)
        lease = engine.lease_one()
        running = engine.explain(fails)
        engine.settle(lease, outcome, error={"type": "E", "message": "x"})
        assert {running["cause"], engine.explain(fails)["cause"]} == {None}


@pytest.mark.parametrize(
    ("limit", "delay", "waits"), [(1, 0, True), (2, 0, False), (1, 60, False), (None, 0, True)]
)
def test_a_parent_that_uses_up_the_limit_of_its_child_is_named(
    engine: Engine, limit: int | None, delay: int, waits: bool
) -> None:
    """A child cannot start while its parent only polls it, and uses the type's only slot."""
    engine.register("work", max_concurrency=limit)
    slots = [] if limit else [{"job_types": ["work"], "limit": 1}]
    parent = engine.enqueue()
    engine.lease(1, slots=slots or None, free_slots=0)
    child = engine.enqueue(parent_id=parent, delay_seconds=delay)
    said = engine.explain(parent)
    assert (f"Its child {child} waits" in said["sentence"]) is waits
    assert remedy(said).startswith("If it waits for job") is waits


def test_a_job_that_sleeps_again_and_again_is_named(engine: Engine) -> None:
    """A loop with a new name for each sleep never ends."""
    job_id = engine.enqueue()
    for n in range(1, 21):
        engine.suspend(engine.lease_one(), f"w{n}", kind="sleep", until=later(engine, 0))
        said = engine.explain(job_id)
        assert remedy(said).endswith("the loop in its code.") == (n == 20)
        engine.elapse(2)
    assert "It has waited 20 times since" in said["sentence"]


def test_a_child_that_does_not_exist_is_named(engine: Engine) -> None:
    """A parent then does not wait, and learns why it has no result."""
    parent, lease = engine.start()
    engine.suspend(lease, kind="children", job_ids=[str(uuid4())])
    engine.lease_one()
    steps = "select value ->> 'error_message' from queue.steps where job_id = %s"
    assert "the job does not exist" in engine.rows(steps, parent)


def test_a_holder_of_another_workspace_is_only_said_to_be_that(engine: Engine, ada: Engine) -> None:
    """Another workspace's job may use up a shared limit.

    Members then see neither that job's id nor its start.
    """
    engine.register("work", max_concurrency=1)
    foreign, _ = engine.start(workspace=GLOBEX)
    waits = engine.enqueue(start_by_seconds=5)
    engine.lease(5)

    said = ada.explain(waits)
    whole = ada.overview(ACME)

    assert said["reason"] == "type_limit"
    assert "jobs of other workspaces" in said["sentence"]
    assert said["held_by"]["since"] is None
    assert foreign not in f"{said} {whole}"
    assert "state running" not in str(said["next"])  # the member's list would be empty
    assert engine.explain(waits)["held_by"]["holder"]["job_id"] == foreign
    engine.elapse(10)
    late = engine.sentence(waits)
    assert "type is used up by jobs of other workspaces: 1 of" in late
    assert foreign not in late


def test_an_advice_to_wait_has_an_end(engine: Engine) -> None:
    """The advice "Nothing to do until …" changes to another reason when its time has passed."""
    for delay, first, then in ((1, "due", "passed_over"), (0, "next_in_line", "not_leased")):
        job_id = engine.enqueue(delay_seconds=delay)
        engine.rpc("lease_jobs", p_request=LOOK)  # a worker is now known
        engine.advance(2)
        said = engine.explain(job_id)
        assert said["reason"] == first
        assert said["next"][0]["kind"] == "wait"
        engine.advance(100)
        hung = "If workers have hung since" in str(engine.explain(job_id)["next"])
        engine.rpc("lease_jobs", p_request=LOOK | {"call": 2})
        assert reason(engine, job_id) == then
        engine.run("update queue.workers set slots = '[]'")  # a process that runs only suspects
        absent = "No worker that serves it runs." in engine.sentence(job_id)
        assert hung == absent == (then == "not_leased")
        engine.run_all()


def test_a_lack_of_slots_is_reported_only_if_leases_use_them_all(
    engine: Engine, ada: Engine
) -> None:
    """`explain_job` reports missing worker slots only if running jobs use all slots.

    If workers may not call `lease_jobs`, it reports this instead.
    """
    engine.register("plain")
    slots = [{"job_types": ["work"], "limit": 2}, {"job_types": ["plain"], "limit": 1}]
    call: dict[str, Any] = {"worker": "w1", "job_types": ["work", "plain"], "tick_id": TICK}
    runs, beside = engine.enqueue(), engine.enqueue(job_type="plain")
    leases = engine.lease(2, **call, slots=slots)
    first, second = engine.enqueue(), engine.enqueue()
    engine.run("revoke execute on function public.lease_jobs from job_worker")
    assert "grant execute" in remedy(engine.explain(second))
    engine.advance(20)
    engine.report_all([handle(each) for each in leases])
    engine.advance(41)

    for waits in (first, second):
        said = engine.explain(waits)
        used = (said["data"]["running"], said["data"]["slots"])
        assert (said["reason"], used) == ("not_leased", (1, 2))
        [step] = said["next"]
        assert "grant execute on function public.lease_jobs" in step["words"]
        assert "cancel" not in str(said["next"])
        shown = ada.explain(waits)
        assert "Workers lack a right in the database" in shown["sentence"]
        assert "grant" not in str(shown)

    engine.advance(60)
    assert list(engine.findings()) == ["missing_right"]
    engine.advance(-60)
    [step] = engine.findings()["missing_right"]["next"]
    engine.run(re.findall("`(grant .*)`", step["words"])[0])
    assert "missing_right" not in engine.findings()
    engine.run("revoke usage on schema public from public, job_worker")
    grant = "grant usage on schema public to job_worker"
    for shown in (engine.explain(second), engine.findings()["missing_right"]):
        assert grant in remedy(shown)
    engine.run(grant)
    engine.lease(1, **call, **{"call": 2})
    engine.report_all([handle(each) for each in leases])
    engine.advance(20)
    said = engine.explain(second)
    assert (said["reason"], said["held_by"]["holder"]["job_id"]) == ("no_slot", runs)
    assert engine.explain(engine.enqueue())["data"]["ahead"] == 1
    assert "Jobs of work use all 2 slots" in said["sentence"]
    assert remedy_command(said) == f"minutehand explain {runs}"
    assert beside not in str(said)


def test_a_worker_that_misses_its_renewals_is_a_finding_and_not_alive(engine: Engine) -> None:
    """A process that was stopped keeps its leases until they expire, also if one lasts longer."""
    engine.register("long", lease_seconds=900)
    job_id = engine.enqueue(job_type="long")
    engine.enqueue()
    engine.lease(2)

    def seen() -> tuple[list[str], str]:
        """Return the findings and the worker's state."""
        [line] = engine.rpc("list_job_types", p_job_type="work")["types"]
        return list(engine.findings()), line["serving"][0]["state"]

    engine.advance(44)
    assert seen() == ([], "alive")
    engine.run("update queue.leases set pulse = %s", Jsonb(PULSE | {"since": str(engine.now(-90))}))
    assert seen() == (["silent_jobs"], "alive")
    engine.advance(2)
    assert seen() == (["silent_worker"], "stale")
    assert "The last recorded call of its worker was at" in engine.sentence(job_id)
    found = engine.findings()["silent_worker"]
    assert (found["jobs"], remedy_command(found)) == (2, "minutehand workers")
    engine.advance(20)
    engine.maintain()
    assert seen() == (["silent_worker"], "stale")
    engine.lease_call(0)
    assert seen()[1] == "alive"


def test_a_silent_job_is_shown_with_its_line_and_its_usual_time(
    engine: Engine, bob: Engine
) -> None:
    """A job that hangs still renews its lease.

    Its explanation shows how long it sent nothing, the line of code, and the usual duration. A job
    that sends updates for longer than the usual duration is shown with the line and the duration.
    """
    engine.enqueue_many(20)
    for lease in engine.lease(30):
        engine.settle(lease, duration_ms=1_000)
    engine.elapse(60)
    hangs, lease = engine.start()
    pulse = {"last": "output", "for_ms": 15_000, "place": "all.py:134", "memory_mb": 97}
    pulse["stack"] = ["all.py:7 main", "all.py:134 read"]

    engine.report(lease, pulse=pulse)
    said = engine.explain(hangs)
    assert "last seen at all.py:134" in said["sentence"]
    assert (said["next"][0]["kind"], said["data"]["kept"]) == ("none", None)
    for _ in range(12):  # an unchanged line of code is not sent again
        engine.advance(20)
        engine.report(lease)

    said = engine.explain(hangs)
    silent = (
        r"Silent for 4 min( \d s)?, since its last output, at all\.py:134\. "
        r"It has run since [\d: -]+\+00\. In the last 24 hours, all 20 jobs of its type ran "
    )
    assert re.match(silent, said["sentence"])
    assert (said["data"]["usual"], said["data"]["memory_mb"]) == ("1.1 s", 97)
    assert said["data"]["stack"] == pulse["stack"]
    assert "Nothing to do" not in str(said["next"])
    assert ". Its worker last reported at 20" in said["sentence"]
    assert remedy(said).startswith("Find out what the call at all.py:134 waits for")
    assert "a `timeout` below 5 min if" in remedy(said)
    hung = " All others of its type took 1.1 s or less, so it probably hangs: cancel and retry the"
    assert hung in remedy(said)
    assert "at this line" not in said["sentence"]  # no other job of the type runs
    _, other = engine.start()
    assert "at this line" not in engine.sentence(hangs)
    engine.advance(25)
    engine.report(lease)
    for place, alike in (("all.py:134", 2), ("all.py:7", 1)):
        engine.report(other, pulse={**pulse, "for_ms": 22_000, "place": place})
        shown = f" {alike} of 2 running jobs of its type are silent at this line."
        assert shown in engine.sentence(hangs)
    engine.settle(other)
    busy = pulse | {
        "for_ms": 300_000,
        "blocked_ms": 56_000,
        "program": "the program ffmpeg (pid 7)",
    }
    engine.report(lease, pulse=busy)
    said = engine.explain(hangs)
    assert "blocked the event loop of the worker for 56 s within a minute." in said["sentence"]
    assert "at all.py:134, waiting for the program ffmpeg (pid 7)." in said["sentence"]
    assert remedy(said).startswith("Find the code that runs long without an `await`")
    blocked = "The code of the first has blocked the event loop for 56 s within a minute"
    assert blocked in remedy(engine.findings()["silent_jobs"])
    engine.report(lease, pulse=pulse | {"for_ms": 300_000})
    engine.report(lease, step={"name": "write", "for_ms": 1})
    assert "output, in its step write at all.py:134." in engine.sentence(hangs)
    found = engine.findings()["silent_jobs"]
    assert (found["jobs"], list(found["silent"])) == (1, [hangs])
    assert found["sentence"].startswith("1 job of work has been silent since")
    [listed] = engine.overview()["attention"]
    assert listed["since"] == found["silent"][hangs]
    assert (listed["workspace_id"], listed["kind"], listed["job_ids"]) == (ACME, "silent", [hangs])
    words = remedy(found)
    assert f", {listed['seen']}." in found["sentence"]
    assert words.startswith("Find out what the call in its step write at all.py:134 waits for")
    assert "count as silent 1 min" in found["sentence"]
    assert remedy_command(found) == f"minutehand explain {hangs}"
    engine.report(lease, pulse=pulse | {"for_ms": 300_000, "code": "await reply  # it"})
    code = "Find out what `await reply` waits for"
    assert remedy(engine.findings()["silent_jobs"]).startswith(code)
    assert remedy(bob.findings(ACME)["silent_jobs"]) == words  # only managers see code
    assert "A cancel stops" not in str([engine.explain(hangs)["next"], engine.findings()])
    sleeps = {"for_ms": 300_000, "code": "time.sleep(0.1)", "in_thread": True}
    engine.report(lease, pulse=pulse | sleeps)
    said, found = engine.explain(hangs), engine.findings()["silent_jobs"]
    assert remedy(said).startswith("The code may loop around the call at all.py:134 without a")
    assert "A cancel stops its thread only when the call returns." in remedy(said)
    assert remedy(found).startswith("The code may loop around `time.sleep(0.1)` without a call of")
    assert "jobs in threads only when their calls return: 1. Then" in found["next"][1]["words"]
    lock = {"program": "an asyncio.Lock", "waits": "lock", "for_ms": 300_000}
    engine.report(lease, pulse=pulse | lock)
    assert remedy(engine.findings()["silent_jobs"]) == "It waits for an asyncio.Lock. See why."
    server = {"program": "data from 192.0.2.7:443", "waits": "data"}
    engine.report(lease, pulse=pulse | {"for_ms": 300_000, "last": "step"} | server)
    waits = "waits for data from 192.0.2.7:443. See why, and give the call a time limit."
    assert f"It {waits}" in remedy(engine.findings()["silent_jobs"])
    engine.report(lease, step={"name": "write", "for_ms": 400_000})
    said = engine.explain(hangs)
    assert "since the end of its last step, in its step write at all.py:134, " in said["sentence"]
    assert remedy(said).startswith("See why the server sends no data, and give the call at all.py")
    engine.report(lease, step={"name": "write", "for_ms": 300_000})
    assert re.match(r"Silent for [45] min( \d+ s)?, in its step write at", engine.sentence(hangs))
    engine.report(lease, pulse=pulse | {"memory_mb": 297, "for_ms": 250_000})
    assert "growth by 200 MB" in engine.explain(hangs)["next"][1]["words"]
    pulse["for_ms"] = 250_000
    engine.report(lease, pulse=pulse | {"batched": 4})
    assert "processor runs it and 4 other jobs." in engine.sentence(hangs)
    engine.report(lease, pulse=pulse | {"batched": 0})
    said = engine.explain(hangs)
    assert said["sentence"].startswith("Last known update ")
    assert "It waits for the next call of its batch" in said["sentence"]
    assert remedy(said) == "Nothing to do."
    assert "silent_jobs" not in engine.findings()
    engine.report(lease, pulse=pulse | {"waits": "output"})
    assert remedy(engine.explain(hangs)).startswith("Read the output of the program while it runs")
    engine.report(lease, progress={"percentage": 50})
    said = engine.explain(hangs)
    assert re.match(
        r"Last known update \d+ m?s ago \(progress\), last seen in its step", said["sentence"]
    )
    assert " 20 jobs of its type ran for 1.1 s or less." in said["sentence"]
    assert said["data"]["is_long_running"] == ""
    engine.report(lease, pulse=pulse | {"for_ms": 0})
    for verdict in (said, engine.explain(hangs)):  # with progress and with output
        longer = r"less\. It has run \d{3} times as long, but it makes progress\.$"
        assert re.search(longer, verdict["sentence"])
        assert remedy(verdict).startswith("See whether its ")
    engine.report(lease, pulse={"last": "end", "for_ms": 250_000, "memory_mb": 97})
    said = engine.explain(hangs)
    assert re.match(r"Its processor ended at [\d: -]+\+00, but its outcome", said["sentence"])
    assert remedy(said).startswith("See in the log of worker w1 why it is not stored since")
    assert "silent_jobs" not in engine.findings()


@pytest.mark.parametrize(
    ("durations", "sentence"),
    [
        ((), ""),
        ((50,), "1 job of its type ran for 55 ms or less."),
        ((400, 9_000), "2 jobs of its type ran for 9.5 s or less."),
        (5 * (400,), "5 jobs of its type ran for 413 ms or less."),
        (11 * (400,) + 10 * (9_000,), "21 jobs of its type ran for 9.5 s or less."),
        (100 * (400,) + (9_000,), "99 % of 101 jobs of its type ran for 413 ms or less."),
    ],
)
def test_the_run_times_of_its_type_bound_those_of_the_counted_jobs(
    engine: Engine, durations: tuple[int, ...], sentence: str
) -> None:
    """The explanation of a running and of an ended job has them, with the number of jobs."""
    engine.enqueue_many(len(durations))
    for lease, ms in zip(engine.lease(200), durations, strict=True):
        engine.settle(lease, duration_ms=ms)
    engine.elapse(60)
    job_id, lease = engine.start()
    engine.report(lease, pulse={"last": "log", "for_ms": 0})
    said = engine.explain(job_id)
    assert sentence in said["sentence"]
    assert bool(sentence) == ("of its type" in said["sentence"])
    assert said["data"]["usual"] is None
    for _ in range(2):
        engine.advance(31)
        engine.report(lease, pulse={"last": "log", "for_ms": 0})
    assert bool(engine.explain(job_id)["data"]["usual"]) == (len(durations) >= 5)
    engine.settle(lease)
    times = ("of_jobs", "typical", "longest")
    after = engine.explain(job_id)
    assert [after["data"].get(name) for name in times] == [said["data"].get(name) for name in times]


def test_a_worker_that_does_not_report_is_not_called_silent_before_its_renewal(
    engine: Engine,
) -> None:
    """Its call may not complete for a long time, so a running job has more than nothing to do."""
    engine.register("long", lease_seconds=900)
    job_id, _ = engine.start(job_type="long")
    assert remedy(engine.explain(job_id)) == "Nothing to do."
    engine.advance(70)
    said = engine.explain(job_id)
    assert "Its worker has not reported on it since 20" in said["sentence"]
    assert remedy(said).startswith("If worker w1 has not reported on it by 20")


def test_a_renewal_is_a_call(engine: Engine) -> None:
    """Without a worker, the time of the last call is that of the last renewal."""
    engine.stop_clock()
    engine.register(lease_seconds=900)
    engine.enqueue()
    lease = engine.lease_one(job_types=["work"])
    engine.advance(300)
    engine.report(lease)
    renewed = f"{engine.now():%F %T}"[:-1]
    engine.advance(300)
    said = engine.findings()["no_worker"]
    assert f"completed since {renewed}" in said["sentence"]
    assert "If one runs" in remedy(said)
    engine.register("other")
    engine.lease_call(0, worker="w2", job_types=["other"])
    said = engine.explain(engine.enqueue())
    assert f"served it, and its last recorded call was at {renewed}" in said["sentence"]
    [line] = engine.rpc("list_job_types", p_job_type="work")["types"]
    assert line["serving"][0]["seen_at"].replace("T", " ").startswith(renewed)


def test_the_pace_since_the_first_report_of_a_run_predicts_its_end(engine: Engine) -> None:
    """A run may begin with any percentage, and progress that goes back begins a new pace."""
    engine.stop_clock()
    job_id, lease = engine.start()

    def end_after(*reports: float | None, **news: Any) -> float | None:
        for percentage in reports:
            engine.advance(4)
            engine.report(lease, progress={"percentage": percentage, "message": "m"}, **news)
        end = engine.explain(job_id)["data"].get("estimated_end_at")
        return end and round((datetime.fromisoformat(end) - engine.now()).total_seconds())

    pulse = PULSE | {"last": "progress"}
    assert end_after(20, 22) is None  # the lease is written only with a pulse
    assert end_after(24, pulse=pulse) is None
    assert end_after(26, 28, 30, pulse=pulse) == 140
    assert end_after(None, pulse=pulse) == 136  # a message without a percentage is no progress
    assert end_after(10, pulse=pulse) is None
    assert end_after(10, 10, 10, pulse=pulse) is None  # no growth
    assert end_after(40, pulse=pulse) == 32
    assert end_after(10**400, pulse=pulse) is None
    assert "pace" not in engine.explain(job_id)["data"]
    engine.settle(lease, "retry", error=ERROR, retry_after_seconds=0)
    engine.advance(1)
    lease = engine.lease_one()
    assert end_after(30, 40, pulse=pulse) is None  # less than 5 seconds


def test_a_long_run_shows_its_predicted_end(engine: Engine) -> None:
    """A run is long from ten times the longest usual duration on, if its progress advances."""
    engine.enqueue_many(5)
    for lease in engine.lease(5):
        engine.settle(lease, duration_ms=9_000)
    engine.elapse(60)
    engine.stop_clock()
    job_id, lease = engine.start(deadline_at=later(engine, 420))

    def explain(percentage: float, last: str = "progress", **more: Any) -> tuple[str, str]:
        pulse = PULSE | {"last": last, "left_ms": 300_000} | more
        engine.report(lease, progress={"percentage": percentage}, pulse=pulse)
        said = engine.explain(job_id)
        return said["sentence"], remedy(said)

    def check(shown: tuple[str, str], end: str) -> None:
        verdict = r" It has run 1\d times as long, but it makes progress"
        assert re.search(verdict + end, shown[0])
        advice = r"Nothing to do if the end about .* is early enough\. Otherwise cancel it\."
        assert re.match(advice if "ends" in end else "See whether its progress", shown[1])

    engine.advance(80)
    assert "times as long" not in explain(10)[0]
    engine.advance(40)
    at = r"; at this pace it ends about 20[\d: -]+\+00"
    check(explain(30), at + r", before its deadline\.")
    check(explain(30, left_ms=200_000), at + r", before its timeout\.")
    check(explain(30, left_ms=30_000), at + r", after its timeout\.")
    check(explain(30, "output"), at)
    check(explain(5), r"\.")
    engine.advance(10)
    sentence, step = explain(5)  # no growth
    assert "times as long" not in sentence
    assert step == "See whether its progress still advances. Cancel it if not."
    assert explain(5, "output")[1].startswith("See whether its output is still useful")
    check(explain(50), at)
    engine.advance(20)
    assert "times as long" not in explain(50)[0]  # the predicted end has passed


def test_a_running_job_shows_what_follows_at_its_timeout(engine: Engine) -> None:
    """The worker reports the time that is left, because each call of a split batch has its own.

    A job alone in such a call is not silent since its start, and a shorter timeout would not help.
    """
    at = later(engine, 540)
    for options, more, then in (
        ({}, {}, "it times out, then attempt 2 of 5 follows."),
        ({"max_attempts": 1}, {}, "it times out and fails."),
        ({}, {"batched": 2}, "its call is stopped, and its batch is run again in halves."),
        ({"deadline_at": at}, {}, "it times out."),
        ({"deadline_at": at}, {"left_ms": 540_000}, "it fails, because its deadline has passed."),
    ):
        job_id, lease = engine.start(**options)
        assert engine.explain(job_id)["outlook"] is None
        assert remedy(engine.explain(job_id)) == "Nothing to do."
        engine.report(lease, pulse=PULSE | {"left_ms": 300_000} | more)
        said = engine.explain(job_id)
        assert said["outlook"].startswith("If it still runs at 20")
        assert said["outlook"].endswith(f"+00, {then}")
        assert "Silent" not in said["sentence"]
    engine.advance(30)
    engine.report(lease, pulse=PULSE | {"for_ms": 60_000, "left_ms": 290_000})
    engine.advance(20)
    said = engine.explain(job_id)
    silent = r"Silent for 3\d s, since its timeout started again, at a\.py:1"
    assert re.match(silent, said["sentence"])
    assert remedy(said).endswith("retry the job if it hangs.")
    policy = "update queue.job_types set timeout_seconds = %s, registered_at = %s"
    before = engine.rows("select timeout_seconds, registered_at from queue.job_types")[0]
    engine.run(policy, 30, engine.now())  # the worker has another timeout
    said = engine.explain(job_id)
    assert ", since its start, at" in said["sentence"]
    assert said["data"]["timeout"] is None
    assert "below 30 s" not in remedy(said)
    engine.run(policy, *before)
    engine.advance(10)  # the event loop is blocked, or the process has ended
    said = engine.explain(job_id)
    assert "Silent" not in said["sentence"]
    assert ", last seen at a.py:1. It has run since" in said["sentence"]
    assert "The worker has not renewed its lease since" in said["sentence"]
    assert remedy(said).startswith("The process of the worker may have ended after")
    assert "If a job blocked its event loop instead" in remedy(said)
    assert said["outlook"] is None
    engine.cancel(job_id)
    said = engine.explain(job_id)
    assert said["outlook"] is None
    assert "The worker has not renewed the lease since" in said["sentence"]


def test_a_limit_that_rejects_enqueues_is_a_finding_with_the_way_to_raise_it(
    engine: Engine,
) -> None:
    """A finding reports a used-up limit of jobs, bytes or schedules, and how to raise it."""
    engine.lease(1)
    engine.limit(max_pending=2)
    engine.enqueue({"text": "long " * 4000})
    assert engine.findings(ACME) == {}
    engine.enqueue()  # now the workspace is full
    stored = engine.one("select sum(pg_column_size(payload)) from public.jobs")
    engine.set(user_pending_bytes_max=stored)
    engine.run("insert into queue.buckets values ('b:' || %s, %s, queue.clock())", ACME, stored)

    for workspace_id in (ACME, None):
        found = engine.findings(workspace_id)
        assert list(found) == ["full_workspace", "full_of_bytes"]
        raised = f"set_workspace_limits('{ACME}', '{{\"max_pending\": 4}}')"
        assert raised in found["full_workspace"]["next"][1]["words"]
        assert remedy_command(found["full_of_bytes"]) == "minutehand ls"
        # only a list of all workspaces names the workspace
        assert (ACME in found["full_workspace"]["sentence"]) == (workspace_id is None)
    assert engine.findings(GLOBEX) == {}
    engine.set(user_enqueues_per_second=1, user_enqueues_burst=2)
    with engine.member(EVE) as eve:
        eve.enqueue_many(2, workspace=GLOBEX)
        rate = eve.findings(GLOBEX)["rate_used_up"]
    assert "1 changes per second" in rate["sentence"]
    assert '{"user_enqueues_per_second": 2}' in remedy(rate)
    assert "rate_used_up" in engine.findings()
    assert "rate_used_up" not in engine.findings(ACME)
    engine.put_schedule()
    engine.set(schedules_max=1)
    assert "has 1 schedules" in engine.findings(ACME)["full_of_schedules"]["sentence"]


def test_a_limit_is_a_finding_if_one_enqueue_passed_it(engine: Engine, ada: Engine) -> None:
    """A finding reports a limit of jobs or bytes that the last stored count does not reach."""
    engine.set(user_pending_bytes_max=4000)
    long = {"text": "".join(random.Random(7).choices(string.ascii_letters, k=3000))}
    for _ in range(2):
        ada.enqueue(long)
        engine.advance(11)
    with pytest.raises(psycopg.Error, match="at most 4000 bytes"):
        ada.enqueue(long)
    engine.limit(GLOBEX, max_pending=2001)
    engine.enqueue_many(2001, workspace=GLOBEX)
    message = "at most 2001 live jobs"
    with engine.member(EVE) as eve, pytest.raises(psycopg.Error, match=message):
        eve.enqueue(workspace=GLOBEX)
    limits = {"full_of_bytes": ACME, "full_workspace": GLOBEX}
    assert limits.keys() <= engine.findings().keys()
    for name, workspace in limits.items():  # counts only the limit that rejected
        assert limits.keys() & engine.findings(workspace).keys() == {name}
    engine.advance(601)
    assert not limits.keys() & engine.findings().keys()


def test_a_schedule_whose_type_no_worker_has_is_a_finding(engine: Engine) -> None:
    """A schedule of a job type that no worker serves is a finding and is marked in the list."""
    stored = engine.put_schedule(name="nightly", job_type="wrok")
    assert stored["problem"] == "no worker serves the job type wrok"
    engine.lease_call(0, job_types=["work"])

    found = engine.findings().values()
    assert [each["key"] for each in found] == ["unserved_schedule nightly"]
    [listed] = engine.rpc("list_schedules", p_workspace_id=ACME)["schedules"]
    assert listed["problem"] == "no worker serves the job type wrok"


def test_a_schedule_whose_unique_job_has_not_started_is_a_finding(engine: Engine) -> None:
    """Its runs enqueue nothing, although the schedule itself has no fault."""
    engine.put_schedule(name="nightly", options={"unique": {"key": "k"}})
    engine.lease_call(0, job_types=["work"])
    engine.elapse(60)
    [job_id] = engine.rows("select id::text from public.jobs")
    assert "waiting_schedule" not in engine.findings(ACME)
    assert engine.get(job_id)["schedule"] == "nightly"
    engine.elapse(60)
    assert engine.get(job_id)["schedule"] is None  # not of this run

    for workspace in (ACME, None):
        found = engine.findings(workspace)["waiting_schedule"]
        assert f"job {job_id} has the same unique key and has not started" in found["sentence"]
        assert remedy_command(found) == f"minutehand explain {job_id}"
    [listed] = engine.rpc("list_schedules", p_workspace_id=ACME)["schedules"]
    assert listed["problem"] == f"job {job_id} has the same unique key and has not started"
    engine.lease_one()
    assert "waiting_schedule" not in engine.findings()


def test_deliveries_to_a_receiver_are_one_holder_and_outside_of_the_default_list(
    engine: Engine,
) -> None:
    """Waiting webhook deliveries are shown as one entry per receiver.

    The default list of jobs does not contain them.
    """
    engine.publish_deliveries()
    keys = ["hook1:a", "hook1:b", "hook1:c", "hook2:a"]
    for key in keys:
        engine.enqueue_many(3, job_type="webhook_delivery", concurrency_key=key)
    engine.lease(10, job_types=["webhook_delivery"])
    engine.register("work", internal=True)  # `explain_queue` includes internal types

    holders = engine.overview(ACME)["holders"]
    assert sorted((each["reason"], each["jobs"]) for each in holders) == [
        ("key_limit", 2),
        ("key_limit", 6),
    ]
    assert "wait for an earlier job of the same receiver" in holders[0]["sentence"]
    found = {each["next"][0]["path"] for each in holders}
    assert found == {f"/jobs?job_type=webhook_delivery&search=hook{n}" for n in (1, 2)}
    assert [each["cause"] for each in holders] == [None, None]
    assert "cancel" not in str(holders)
    assert "key_concurrency" not in str(holders)
    waits = "select job_id::text from queue.gated where not admitted order by ord desc limit 1"
    assert "smaller priority" not in str(engine.explain(engine.one(waits)))  # sent in order
    own = engine.enqueue()
    for internal, count in ((False, 1), (True, 12)):
        filters = {"workspace_id": ACME, "internal": internal}
        listed = engine.rpc("list_jobs", p_filter=filters)["jobs"]
        states = engine.rpc("count_jobs", p_workspace_id=ACME, p_filter={"internal": internal})
        assert len(listed) == sum(states["states"].values()) == count
        assert (own in {each["id"] for each in listed}) is not internal
    assert engine.rpc("queue_stats", p_workspace_id=ACME)["live"]["queued"] == 1
    engine.register("webhook_delivery", key_concurrency=1, workspace_concurrency=4, internal=True)
    engine.enqueue(job_type="webhook_delivery", concurrency_key="hook3:a")
    holders = engine.overview(ACME)["holders"]
    assert "wait for running ones to end" in str(holders)
    assert "cancel" not in str(holders)


def test_the_job_that_blocks_the_event_loop_of_its_neighbours_is_named(
    engine: Engine, ada: Engine
) -> None:
    """A person of another workspace does not see its id."""
    neighbour, _ = engine.start()
    blocker, lease = engine.start(workspace=GLOBEX)
    engine.report(lease, pulse=PULSE | {"blocked_ms": 16_000})
    blocked = "of the same process has blocked its event loop for 16 s within a minute."
    said, hidden = engine.explain(neighbour), ada.explain(neighbour)
    assert f" Job {blocker} {blocked}" in said["sentence"]
    assert remedy(said) == f"Follow the advice of job {blocker}."
    assert f" Another job {blocked}" in hidden["sentence"]
    assert blocker not in str(hidden)
    assert "same process" not in engine.sentence(blocker)


def test_a_processor_that_ignored_its_stop_is_shown_until_it_ends(engine: Engine) -> None:
    """`explain_job` shows that a stopped job's processor still runs.

    The text remains after the worker's run, and disappears when the worker reports the
    processor's end.
    """
    job_id, lease = engine.start()
    engine.settle(lease, "failed", error={"type": "AttemptTimeout", "message": "slow"})
    run = {"tick_id": TICK, "call": 2}

    engine.lease(1, **run, abandoned=[{"job_id": job_id, "place": "all.py:7"}])
    explanation = engine.explain(job_id)
    assert "still runs, abandoned, in worker w1 at all.py:7" in explanation["sentence"]
    assert explanation["abandoned_at"] == "all.py:7"
    assert "Restart worker w1" in remedy(explanation)
    assert "do not catch the stop" in remedy(explanation)
    in_thread = {"job_id": job_id, "place": "all.py:7", "in_thread": True}
    engine.lease(1, **run | {"call": 3}, abandoned=[in_thread])
    words = [step["words"] for step in engine.explain(job_id)["next"]]
    assert "give the call at all.py:7 a time limit, because its thread" in words[0]
    assert "catch" not in words[0]
    assert words[1:] == ["Then retry the job."]
    engine.retry(job_id)
    [again] = engine.lease(1, **run | {"call": 4})
    assert [step["kind"] for step in engine.explain(job_id)["next"]] == ["act"]
    engine.advance(50)
    engine.report(again, pulse=PULSE | {"for_ms": 40_000})
    assert "each retry can leave one more" in str(engine.explain(job_id)["next"])
    engine.advance(20)  # no job of its type has ended
    stuck = "Do not retry before that. Jobs with an earlier attempt that is still stuck: 1."
    assert stuck in engine.findings()["silent_jobs"]["next"][1]["words"]
    engine.advance(-20)
    engine.settle(again, "failed", error={"type": "AttemptTimeout", "message": "slow"})
    engine.finish(tick_id=TICK, summary={"leased": 1})
    assert "abandoned" in engine.sentence(job_id)
    engine.lease(1, **run | {"tick_id": str(uuid4())}, abandoned=[])
    assert "abandoned" not in engine.sentence(job_id)
