"""Functions that people read with: lists, counts, dead letters, attempts, traces and log lines."""

import itertools
import json
import random
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.contract.observed import refused, started
from tests.support.engine import ACME, ADA, BOB, ERROR, GLOBEX, Engine, Json

STATUSES = ["pending", "processing", "waiting", "completed", "failed", "cancelled"]


def pages(engine: Engine, limit: int = 3, **filters: Any) -> list[str]:
    """Return the ids of all jobs of a list, read page by page."""
    ids: list[str] = []
    cursor = None
    for _ in range(500):
        page = engine.rpc("list_jobs", p_filter=filters, p_cursor=cursor, p_limit=limit)
        assert len(page["jobs"]) <= limit
        ids += [job["id"] for job in page["jobs"]]
        cursor = page["next"]
        if cursor is None:
            return ids
    raise AssertionError("the list does not end")


def settle_some(engine: Engine) -> None:
    """Create jobs in every state in both workspaces."""
    engine.register("other")
    engine.register("keyed", key_concurrency=1)
    for workspace, job_type, n in itertools.product([ACME, GLOBEX], ["work", "other"], range(9)):
        marks: Json = {"session_id": f"s{n % 2}", "tags": [f"n{n % 4}"]}
        marks["user_id"] = [ADA, BOB, None][n % 3]
        engine.enqueue({"n": n % 4}, workspace=workspace, job_type=job_type, **marks)
    outcomes = ["completed", "failed", "cancelled", "waiting", "retry", "completed"]
    wait = {"kind": "sleep", "name": "nap", "until": "2199-01-01T00:00:00Z"}
    for lease, outcome in zip(engine.lease(18), itertools.cycle(outcomes), strict=False):
        error = {"type": "E", "message": f"100% of {outcome}"}
        engine.settle(lease, outcome, wait=wait, error=error)
    engine.lease(3)
    for workspace in (ACME, GLOBEX):
        engine.enqueue_many(3, workspace=workspace, job_type="keyed", concurrency_key="k")
        engine.enqueue(workspace=workspace, delay_seconds=600)


def test_a_list_shows_what_a_plain_query_would(engine: Engine, ada: Engine) -> None:
    """A list of jobs with any filters returns the same jobs as a plain SQL query."""
    settle_some(engine)
    dice = random.Random(7)
    assert set(engine.rows("select distinct status from public.jobs")) == set(STATUSES)
    middle = engine.one(
        "select percentile_disc(0.5) within group (order by created_at)::text from public.jobs"
    )
    conditions: dict[str, tuple[str, list[Any]]] = {
        "job_type": ("job_type = %s", ["work", "other", "keyed"]),
        "session_id": ("session_id = %s", ["s0", "s1"]),
        "user_id": ("user_id = %s", [ADA, BOB]),
        "mine": (f"(user_id is not distinct from '{ADA}') >= %s::boolean", ["true", "false"]),
        "tag": ("%s = any (tags)", ["n0", "n1"]),
        "payload": ("payload @> %s::jsonb", ['{"n": 2}']),
        "error": ("'E: ' || error_message ilike '%%' || %s", ["of FAILED", "e: 100% of retry"]),
        "search": ("'E: ' || error_message ilike '%%' || %s", ["of WAITING", "e: 100% of retry"]),
        "created_after": ("created_at >= %s", [middle]),
        "created_before": ("created_at < %s", [middle]),
        "concurrency_key": ("concurrency_key = %s", ["k"]),
        "worker_id": (
            "%s in (select w.worker_id from queue.workers as w join (select a.worker from"
            " queue.attempts as a where a.job_id = jobs.id union select l.worker from queue.leases"
            " as l where l.job_id = jobs.id union select jobs.worker) as r using (worker))",
            ["w1", "w2"],
        ),
    }

    for turn in range(50):
        filters: Json = {"workspace_id": ACME} if dice.random() < 0.7 else {}
        if dice.random() < 0.5:
            filters["status"] = dice.sample(STATUSES, dice.randint(1, 5))
            if len(filters["status"]) == 1:  # a single status may be a plain string
                [filters["status"]] = filters["status"]
        names = {list(conditions)[turn % len(conditions)], dice.choice(list(conditions))}
        chosen = {name: dice.choice(conditions[name][1]) for name in sorted(names)}
        filters |= {n: json.loads(v) if n == "payload" else v for n, v in chosen.items()}
        plain = engine.rows(
            "select id::text from public.jobs where workspace_id = %s and status = any (%s)"
            + "".join(f" and {conditions[name][0]}" for name in chosen)
            + " order by id desc",
            ACME,
            [filters["status"]]
            if isinstance(filters.get("status"), str)
            else filters.get("status", STATUSES),
            *chosen.values(),
        )
        assert pages(ada, **filters) == plain, filters


def test_a_list_shows_ids_of_a_payload_last(engine: Engine, ada: Engine) -> None:
    """Many jobs of one type have equal ids in their payloads, so the other values come first."""
    engine.enqueue({"job": ACME, "note": None, "region": "eu", "version": 1, "workspace": ACME})
    [row] = ada.rpc("list_jobs")["jobs"]
    assert row["glimpse"] == f"region: eu, version: 1, job: {ACME}"


def test_a_list_has_the_last_update_of_a_running_job(engine: Engine, ada: Engine) -> None:
    """A pulse does not change the job's row, but a later read returns the row again."""
    engine.enqueue({})
    [lease] = engine.lease(1)

    def read(read_before: Json) -> Json:
        cursor = {"since": read_before["now"], "seen": read_before["seen"]}
        return ada.rpc("list_jobs", p_cursor=cursor)

    page = ada.rpc("list_jobs")
    assert "last_update" not in page["jobs"][0]["times"]
    engine.report(lease, pulse={"last": "output", "for_ms": 2000, "memory_mb": 9})
    page = read(page)
    assert page["jobs"][0]["times"]["last_update"]["kind"] == "output"
    engine.elapse(30)
    page = read(page)
    assert read(page)["jobs"][0].keys() == {"id"}


def test_a_list_is_of_the_workspace_joined_first_and_an_operators_of_all(
    engine: Engine, bob: Engine, ada: Engine
) -> None:
    """Without a workspace, a member lists jobs of the workspace joined first.

    An operator lists jobs of all workspaces.
    """
    settle_some(engine)
    everything = engine.rows("select id::text from public.jobs order by id desc")
    own = pages(ada, 20)
    assert [row["id"] for row in ada.rpc("list_workspaces")["workspaces"]] == [ACME]
    join = "insert into public.workspace_members (workspace_id, user_id) values (%s, %s)"
    engine.run(join, GLOBEX, BOB)
    assert pages(bob, 20) == own != everything
    assert pages(bob, 20, workspace_id=GLOBEX) == [i for i in everything if i not in own]
    claims = {"minutehand_operator": True}
    with engine.as_role("authenticated", sub=ADA, app_metadata=claims) as staff:
        assert pages(staff, 20) == everything
    assert refused(engine.rpc, "list_jobs") == ("PT400", "invalid_argument", "workspace_id")


def test_a_page_that_is_read_again_has_only_ids_of_unchanged_jobs(engine: Engine) -> None:
    """A list that is read again returns only the ids of jobs that have not changed.

    An open page would otherwise read 120 kB after each change.
    """
    ended, runs, waits = engine.enqueue_many(3)
    later = engine.enqueue(delay_seconds=60)
    first, _ = engine.lease(2)
    page = engine.rpc("list_jobs", p_filter={"workspace_id": ACME})
    assert [job["id"] for job in page["jobs"]] == [later, waits, runs, ended]

    def changed() -> list[str]:
        nonlocal page
        cursor = {"since": page["now"], "seen": page["seen"]}
        page = engine.rpc("list_jobs", p_filter={"workspace_id": ACME}, p_cursor=cursor)
        assert len(page["jobs"]) == 4
        return [job["id"] for job in page["jobs"] if job.keys() != {"id"}]

    assert changed() == [later]
    engine.settle(first, "failed", error=ERROR)
    assert changed() == [later, ended]
    engine.retry(ended)
    with engine.database.connect(autocommit=False) as uncommitted:
        uncommitted.execute("select public.cancel_job(%s)", (waits,))
        assert changed() == [later, ended]
        engine.advance(61)
        assert changed() == [later]
        uncommitted.commit()
    assert changed() == [waits]
    assert changed() == []
    cursor = {"since": page["now"], "seen": page["seen"], "columns": ["id", "result", "state"]}
    engine.cancel(runs)
    page = engine.rpc("list_jobs", p_filter={"workspace_id": ACME}, p_cursor=cursor)
    assert page["jobs"][2] == {"id": runs, "state": "running"}


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("statuses", {"p_filter": {"statuses": ["pending"]}}),
        ("status", {"p_filter": {"status": ["pending", "done"]}}),
        ("status", {"p_filter": {"status": [None]}}),
        ("state", {"p_filter": {"state": ["done"]}}),
        ("filter", {"p_filter": {"created_after": "soon"}}),
        ("filter", {"p_filter": {"mine": "ours"}}),
        ("cursor", {"p_cursor": {}}),
        ("filter", {"p_cursor": {"id": "7"}}),
    ],
)
def test_a_filter_or_cursor_that_makes_no_sense_is_refused(
    engine: Engine, ada: Engine, field: str, arguments: Json
) -> None:
    """A list rejects an unknown filter, an invalid value and an incomplete cursor."""
    result = refused(ada.rpc, "list_jobs", **arguments)
    assert result == ("PT400", "invalid_argument", field)


def test_a_cursor_of_a_feed_is_no_longer_than_running_transactions_make_it(ada: Engine) -> None:
    """A feed rejects a very long cursor, because each event would repeat the cursor."""
    feed = {"p_workspace_id": ACME}
    ada.rpc("event_feed", **feed, p_cursor='(c,"1:3:1,2",,,,)')
    running = ",".join(map(str, range(1, 2000)))
    result = refused(ada.rpc, "event_feed", **feed, p_cursor=f'(c,"1:2000:{running}",,,,)')
    assert result == ("PT400", "invalid_argument", "cursor")


def test_a_page_and_a_count_read_ten_thousand_jobs_at_most(engine: Engine) -> None:
    """A page of a filtered list reads at most 10,000 jobs, so it may be empty and have a next page.

    A count stops at 10,000 jobs too.
    """
    engine.register("other")
    rare = engine.enqueue(job_type="other")
    asleep = engine.enqueue(job_type="other", delay_seconds=600)
    engine.enqueue_many(900)

    sparse = {"workspace_id": ACME, "job_type": "other"}
    page = engine.rpc("list_jobs", p_filter=sparse, p_limit=1)
    assert ([job["id"] for job in page["jobs"]], page["next"]["id"]) == ([asleep], asleep)
    engine.enqueue_many(10_000)
    page = engine.rpc("list_jobs", p_filter=sparse, p_limit=1)
    assert (page["jobs"], page["next"] is None) == ([], False)
    assert pages(engine, 2, **sparse) == [asleep, rare]
    found = engine.rpc("list_jobs", p_filter={**sparse, "state": ["scheduled"]}, p_limit=2)
    assert ([job["id"] for job in found["jobs"]], found["next"]) == ([asleep], None)
    assert len(engine.rpc("list_jobs", p_filter={"workspace_id": ACME}, p_limit=999)["jobs"]) == 200

    counted = engine.rpc("count_jobs", p_workspace_id=ACME)
    assert set(counted["at_least"]) == {"queued", "completed", "cancelled"}
    assert (counted["states"]["queued"], counted["states"]["scheduled"]) == (10_000, 1)


def test_counts_are_those_of_the_list_in_every_state(engine: Engine) -> None:
    """The count of jobs in each state is equal to the length of the list in that state."""
    settle_some(engine)
    engine.run("update queue.job_types set internal = true where job_type = 'other'")

    for filters in ({}, {"job_type": "work"}, {"job_type": "other"}):
        counted = engine.rpc("count_jobs", p_workspace_id=ACME, p_filter=filters)
        assert counted["at_least"] == []
        for state, count in counted["states"].items():
            listed = pages(engine, 200, workspace_id=ACME, state=[state], **filters)
            assert len(listed) == count, (filters, state)


def fail(engine: Engine, message: str, workspace: str = ACME) -> None:
    error = {"type": "E", "message": message}
    engine.settle(started(engine, workspace=workspace), "failed", error=error)


def test_dead_letters_are_grouped_by_what_went_wrong(engine: Engine) -> None:
    """Failed jobs whose errors differ only in numbers or ids form one group of dead letters.

    A group is new if no attempt of its jobs failed before the last deploy.
    """
    for n in range(2):
        fail(engine, f"user {n} is gone")
    error = {"type": "E", "message": "slow"}
    engine.settle(started(engine), "retry", error=error)
    engine.advance(1)
    engine.run("update queue.job_types set deployed_at = queue.clock()")
    engine.advance(1)
    for message in ("user 3 is gone", "another"):
        fail(engine, message)
    fail(engine, "theirs", GLOBEX)
    engine.advance(100)
    engine.settle(engine.lease_one(), "failed", error=error)

    found = engine.rpc("dead_letters", p_workspace_id=ACME)
    groups = [(group["jobs"], group["is_new"]) for group in found["groups"]]
    assert (groups, found["more"]) == ([(3, False), (1, False), (1, True)], False)
    same = {"workspace_id": ACME, "error_fingerprint": found["groups"][0]["error_fingerprint"]}
    assert len(pages(engine, status=["failed"], **same)) == 3
    engine.retry(found["groups"][1]["latest_id"])
    assert len(engine.rpc("dead_letters", p_workspace_id=ACME)["groups"]) == 2


def test_a_lost_worker_is_a_cause_of_one_job_type(engine: Engine) -> None:
    """A retry of one cause must not start jobs of a type whose code may still be broken.

    The cause that an earlier release showed still finds the jobs of all types.
    """
    lost = {"type": "WorkerLost", "message": "x", "evidence": {"signal": "SIGKILL"}}
    engine.register("other")
    for job_type in ("work", "other"):
        engine.enqueue(job_type=job_type)
        engine.settle(engine.lease_one(), "failed", error=lost)

    groups = engine.rpc("dead_letters", p_workspace_id=ACME)["groups"]
    causes = {group["error_fingerprint"] for group in groups}
    earlier = engine.one(
        "select distinct queue.fingerprint(error_message, error_data) from public.jobs"
    )
    assert len(causes) == 2
    for cause, count in (*((each, 1) for each in causes), (earlier, 2)):
        found = {"workspace_id": ACME, "error_fingerprint": cause}
        assert len(pages(engine, status=["failed"], **found)) == count


def test_attempts_show_how_each_ended_and_tracebacks_to_managers_alone(
    engine: Engine, bob: Engine, ada: Engine
) -> None:
    """`job_attempts` returns how each attempt ended.

    Only managers get tracebacks and the running code, because these show code.
    """
    job_id = engine.enqueue()
    error = {"error": ERROR, "traceback": {"frames": []}}
    engine.settle(engine.lease_one(), "retry", **error, retry_after_seconds=0)
    engine.advance(1)
    lease = engine.lease_one(worker="w2")

    [first, running] = ada.rpc("job_attempts", p_job_id=job_id)["attempts"]
    assert (first["outcome"], first["error"], first["worker_id"]) == ("retry", "E: no", "w1")
    assert (running["worker_id"], running["ended_at"], running["fence"]) == ("w2", None, 2)
    plain = bob.rpc("job_attempts", p_job_id=job_id)["attempts"][0]
    assert ("traceback" in first, "traceback" in plain) == (True, False)
    assert plain["has_traceback"] == first["has_traceback"]
    pulse = {"last": "log", "for_ms": 1, "place": "a.py:1", "code": "f()", "stack": ["a.py:1 f"]}
    engine.report(lease, pulse={**pulse, "memory_mb": 9})
    for person in (ada, bob):
        data = person.rpc("explain_job", p_job_id=job_id)["data"]
        assert (data["place"], {"code", "stack"} <= {*data}) == ("a.py:1", person is ada)
    engine.settle(lease)
    assert len(engine.rpc("job_attempts", p_job_id=job_id)["attempts"]) == 2


def test_a_trace_has_attempts_steps_waits_and_children_on_one_axis(engine: Engine) -> None:
    """`job_trace` returns a job's attempts, steps, waits and child jobs in one response."""
    job_id, lease = engine.start()
    done, open_step = {"name": "a", "result": 1, "duration_ms": 5}, {"name": "b", "for_ms": 1}
    engine.report(lease, steps=[done], step=open_step)
    [child] = engine.spawn(lease, "kids", [{"job_type": "work"}])
    engine.suspend(lease, "kids", kind="children", job_ids=[child])

    trace = engine.rpc("job_trace", p_job_id=job_id)
    assert {job["id"]: job["parent_id"] for job in trace["jobs"]} == {job_id: None, child: job_id}
    own = trace["jobs"][0]
    assert [attempt["outcome"] for attempt in own["attempts"]] == ["waiting"]
    steps = [(step["name"], step["kind"], step["ended_at"] is None) for step in own["steps"]]
    assert steps == [("a", "step", False), ("kids", "children", True)]
    assert (trace["more"], own["times"]["runs"]) == (False, 1)


def test_a_retried_parent_gets_the_new_result_of_a_retried_child(engine: Engine) -> None:
    """If no child has changed since, or a completed child was deleted, it keeps its results."""
    parent, lease = engine.start()
    kinds = [{"job_type": "work", "payload": {}}] * 2
    children = engine.spawn(lease, "s", kinds)
    engine.suspend(lease, kind="children", job_ids=children)

    def outcomes() -> list[str]:
        steps = engine.rpc("job_steps", p_job_id=parent)["steps"]
        found = [step["result"] for step in steps if step["name"] == "w"]
        return [child["status"] for result in found for child in result["children"]]

    good, bad = engine.lease(2)
    failed: Json = {"type": "minutehand.worker.context.ChildrenFailed", "message": "1 of 2"}
    failed["data"] = {"wait": "w", "failed": []}
    engine.complete([good])
    engine.settle(bad, "failed", error={"message": "no customer"})
    for _ in range(2):
        engine.settle(engine.lease_one(), "failed", error=failed)
        assert sorted(outcomes()) == ["completed", "failed"]
        engine.retry(parent)
    engine.settle(engine.lease_one(), "failed", error=failed)
    engine.retry(bad["job"]["id"])
    with engine.undone():
        engine.run("delete from jobs where id = %s", good["job"]["id"])
        engine.retry(parent)
        assert sorted(outcomes()) == ["completed", "failed"]
    for data, is_cause in (  # finished steps may depend on these results
        ({"wait": "other", "failed": [bad["job"]["id"]]}, False),
        ({"failed": []}, False),
        ({"failed": [bad["job"]["id"]]}, True),  # from a worker of an earlier release
    ):
        with engine.undone():
            change = (
                "update jobs set error_data = jsonb_set(error_data, '{data}', %s) where id = %s"
            )
            engine.run(change, Jsonb(data), parent)
            engine.retry(parent)
            assert (outcomes() == []) is is_cause
    engine.retry(parent)
    assert outcomes() == []
    by_id = {one["job"]["id"]: one for one in engine.lease(2)}
    engine.suspend(by_id[parent], kind="children", job_ids=children)
    engine.complete([by_id[bad["job"]["id"]]])
    engine.lease_one()
    assert outcomes() == ["completed"] * 2


def test_a_child_that_failed_is_one_row_with_what_followed(engine: Engine) -> None:
    """Failed parents of a failed job are shown as its consequences.

    Jobs whose processes ended by one signal or exit code form one group of dead letters.
    """
    engine.register("top")
    parent, lease = engine.start(job_type="top")
    [child] = engine.spawn(lease, "s", [{"job_type": "work", "payload": {}}])
    engine.suspend(lease, kind="children", job_ids=[child])
    error: Json = {"type": "app.Broken", "message": f"no customer in {child}"}
    engine.settle(engine.lease_one(), "failed", error=error)
    error = {"type": "minutehand.worker.context.ChildrenFailed", "message": "a child failed"}
    engine.settle(engine.lease_one(), "failed", error=error)
    ends: list[Json] = [{"signal": "SIGKILL"}] * 2 + [{"exit_code": 3}, {"exit_code": 4}]
    for worker, end in zip("abcd", ends, strict=True):
        engine.enqueue(max_attempts=1)
        engine.lease_one(worker=f"host-{worker}xyz")
        evidence = {**end, "jobs": [], "running": 1, "memory_mb": ord(worker)}
        engine.finish(worker_id=f"host-{worker}xyz", evidence=evidence)

    groups = engine.rpc("dead_letters", p_workspace_id=ACME)["groups"]

    assert [group["jobs"] for group in groups] == [2, 1, 1, 1]
    [broken] = [group for group in groups if "customer" in group["error_message"]]
    assert broken["error_message"] == f"Broken: no customer in …{child[-8:]}"
    [effect] = broken["consequences"]
    assert (effect["job_type"], effect["latest_id"]) == ("top", parent)
    broken_child = engine.explain(parent)["next"][0]["words"]
    assert broken_child.startswith("Follow the advice of work, the first descendant that failed")
    leaf = engine.enqueue()
    engine.run("update public.jobs set parent_id = %s where id = %s", child, leaf)
    engine.settle(engine.lease_one(), "failed", error=error)
    with engine.undone():
        engine.cancel(engine.retry(child)["id"])
        listed = "update jobs set error_data = error_data || %s where id = %s"
        engine.run(listed, Jsonb({"data": {"failed": [child]}}), parent)
        [step] = engine.explain(parent)["next"]
        assert (step["words"], step["command"]) == (
            f"Its child {child} was cancelled. Retry the child, then this job.",
            f"minutehand show {child}",
        )
        engine.retry(child)
    retried = engine.explain(parent)["next"][0]["words"]
    assert retried.endswith("and retry it. Then retry work, then this job.")
    for job_id in (leaf, child):
        engine.retry(job_id)
        engine.complete([engine.lease_one()])
    [step] = engine.explain(parent)["next"][:1]
    assert step["words"] == "None of its children has failed any more. Retry this job."
    assert broken["by_hour"] == {"0": 1}
