"""A job of a type that no worker has registered waits, and runs after the registration."""

from tests.contract.observed import refused
from tests.support.engine import ACME, BOB, GLOBEX, Engine, Json, ids_of


def test_a_job_waits_for_its_type_and_takes_from_it_what_it_did_not_say(engine: Engine) -> None:
    """A job that waits for its type's registration then gets the type's options.

    An option that the caller set stays, even if it equals the default.
    """
    chosen: Json = {"queue": "default", "max_attempts": 5, "schema_version": 1}
    of_type, own = ("slow", 2, 3), tuple(chosen.values())
    insert = "insert into jobs (workspace_id, job_type{}) values (%s, 'later'{}) returning id::text"
    columns = ", queue, max_attempts, schema_version"
    first = engine.enqueue({"n": 1}, job_type="later")
    [urgent] = engine.enqueue_many(1, job_type="later", priority=1)
    half = engine.enqueue(job_type="later", max_attempts=5)
    retried = engine.enqueue(job_type="later", **chosen)
    engine.cancel(retried)
    engine.retry(retried)
    expected = {
        **dict.fromkeys([first, urgent, engine.one(insert.format("", ""), ACME)], of_type),
        half: ("slow", 5, 3),
        retried: own,
        engine.enqueue(job_type="later", **chosen): own,
        engine.one(insert.format(columns, ", 'default', 5, 1"), ACME): own,
        engine.enqueue_all([{"job_type": "later", **chosen}])[0]: own,
    }

    counts = engine.rpc("count_jobs", p_workspace_id=ACME, p_filter={"job_type": "later"})
    assert counts["states"]["queued"] == len(expected)
    assert "chosen" not in engine.get(half)
    assert engine.lease() == []
    result = engine.explain(first)
    assert result["reason"] == "no_processor"
    assert "No worker serves later. It has waited since" in result["sentence"]
    assert "It has" not in engine.overview()["holders"][0]["sentence"]  # about all jobs of the type
    engine.register("later", max_concurrency=0)  # a registration with the limit 0 is rejected
    result = engine.explain(first)
    assert (result["reason"], result["data"]["unpublished"]) == ("no_processor", "later")
    assert "concurrency is at least 1" in result["cause"].replace("_", " ")
    assert engine.lease() == []

    engine.register("later", queue="slow", max_attempts=2, schema_version=3)

    jobs = [lease["job"] for lease in engine.lease(queues=["slow"]) + engine.lease()]
    assert jobs[0]["id"] == urgent
    assert {job["id"]: tuple(job[name] for name in chosen) for job in jobs} == expected
    assert engine.rows("select id from jobs where chosen is not null") == []


def test_options_hold_once_the_type_is_known(engine: Engine) -> None:
    """Keys, times, the queue and attempts of a job apply once a worker registers its type."""
    keyed = [engine.enqueue(job_type="later", concurrency_key="k") for _ in range(2)]
    timed = engine.enqueue(job_type="later", delay_seconds=3600)
    own = engine.enqueue(job_type="later", queue="mine", max_attempts=9)
    late = engine.enqueue(job_type="later", deadline_at="2000-01-01T00:00:00Z")
    same = [engine.enqueue(job_type="later", idempotency_key="i") for _ in range(2)]
    engine.maintain()

    engine.declare("mine")
    engine.register("later", key_concurrency=1)
    leases = engine.lease()
    assert sorted(ids_of(leases)) == sorted([keyed[0], own, same[0]])
    assert same[0] == same[1]
    assert (engine.job(own)["queue"], engine.job(own)["max_attempts"]) == ("mine", 9)
    assert engine.status(late) == "failed"
    engine.complete(leases)
    engine.advance(3601)
    assert timed in ids_of(engine.lease())


def test_a_job_that_commits_after_its_type_was_published_runs_too(engine: Engine) -> None:
    with engine.open_transaction() as other:
        job = other.enqueue(job_type="later")
        engine.register("later")
        assert engine.lease() == []

    assert ids_of(engine.lease()) == [job]


def test_a_persons_job_of_a_type_that_turns_out_to_be_internal_fails(
    engine: Engine, ada: Engine
) -> None:
    theirs = ada.enqueue(job_type="later")
    ours = engine.enqueue(job_type="later")
    engine.register("later", internal=True)

    assert ids_of(engine.lease()) == [ours]
    assert engine.status(theirs) == "failed"


def test_types_that_no_worker_has_published_are_bounded(engine: Engine) -> None:
    """A workspace may have jobs of at most 20 unregistered types, and a database of 1,000.

    Misspelt names in a loop therefore cannot fill the queue.
    """
    for number in range(20):
        engine.enqueue(job_type=f"t{number}", delay_seconds=60)
    assert refused(engine.enqueue, job_type="t20") == ("PT422", "unknown_job_type", "job_type")
    engine.enqueue(job_type="t7")
    engine.enqueue(job_type="t20", workspace=GLOBEX)
    engine.run(
        "insert into queue.unpublished (job_type, workspace_id, job_id)"
        " select 'more' || n, gen_random_uuid(), gen_random_uuid()"
        " from generate_series(1, 979) as n"
    )
    assert refused(engine.enqueue, job_type="t21", workspace=GLOBEX)[1] == "unknown_job_type"
    engine.enqueue(job_type="more7", workspace=GLOBEX)
    assert refused(engine.enqueue, job_type="x" * 101)[1] == "unknown_job_type"
    engine.run("delete from queue.unpublished where job_id not in (select id from jobs)")


def test_what_waits_is_shown_with_the_nearest_name(engine: Engine) -> None:
    """Explanations name the registered type that is most similar to a misspelt one.

    Another workspace does not see the misspelt type. A registered type is not called misspelt if no
    worker serves it.
    """
    engine.register("reports.send")
    job = engine.enqueue(job_type="report.send")

    result = engine.explain(job)
    assert result["data"]["nearest"] == result["next"][0]["guess"] == "reports.send"
    [group] = engine.overview(ACME)["attention"]
    assert (group["kind"], group["nearest"]) == ("no_worker", "reports.send")
    for workspace, published in ((ACME, False), (GLOBEX, None)):
        types = engine.rpc("list_job_types", p_workspace_id=workspace)["types"]
        known = {t["job_type"]: t["published"] for t in types}
        assert (known.get("report.send"), known["reports.send"]) == (published, True)
    engine.put_schedule(name="weekly", job_type="reports.send")
    engine.advance(200)  # a worker of a new type may be starting
    engine.lease_call(0, job_types=["work"])
    assert "misspelt" not in str(engine.findings()["unserved_schedule"])


def test_a_mistyped_type_warns_who_mistyped_it(engine: Engine, bob: Engine, ada: Engine) -> None:
    """The member who enqueued a misspelt type, managers and operators get a finding about it."""
    engine.lease_call(0)
    ada.enqueue(job_type="mistyped")

    def warned(who: Engine, **asked: str) -> str:
        findings = who.rpc("explain_queue", **asked)["findings"]
        return str([found for found in findings if found["reason"] == "no_processor"])

    assert "mistyped" in warned(ada, p_workspace_id=ACME)
    assert warned(bob, p_workspace_id=ACME) == "[]"
    bob.enqueue(job_type="missspelt")
    assert "missspelt" in warned(bob, p_workspace_id=ACME)
    assert "mistyped" not in warned(bob, p_workspace_id=ACME)
    seen = bob.rpc("queue_stats", p_workspace_id=ACME)["backlog"]["unserved"]
    assert seen["jobs"] == 2
    [listed] = bob.overview(ACME)["attention"]
    assert (listed["kind"], listed["job_type"], listed["jobs"]) == ("no_worker", "missspelt", 1)
    found = engine.findings()["no_processor"]
    assert found["unserved"] == ["missspelt", "mistyped"]
    assert f"the oldest since {found['since'][:10]}" in found["sentence"]
    assert "job_type=missspelt" in warned(bob, p_workspace_id=ACME)
    engine.run("update workspace_members set role = 'manager' where user_id = %s", BOB)
    assert "mistyped" in warned(bob, p_workspace_id=ACME)


def test_a_job_that_waits_for_its_type_is_replayed(engine: Engine) -> None:
    """A job that waits for its type's registration can be replayed.

    The replay has no schema version either.
    """
    waiting = engine.enqueue({"n": 1}, job_type="later")

    again = engine.rpc("replay_job", p_job_id=waiting, p_request={})["job"]

    assert (again["payload"], again["schema_version"]) == ({"n": 1}, 0)
