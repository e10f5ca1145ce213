"""No tenant reads, writes, cancels, follows or learns the existence of another's jobs."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.contract.observed import ask, may_join, refused
from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, handle, ids_of

MISSING = "00000000-0000-4000-8000-00000000dead"
#: Somebody whom Auth knows, but no workspace does.
GUEST = "cccccccc-0000-4000-8000-000000000009"
ONE_JOB: dict[str, dict[str, Any]] = {
    "get_job": {},
    "cancel_job": {},
    "retry_job": {},
    "answer_job": {"p_answer": {"answer": 1}},
    "replay_job": {"p_request": {}},
    "explain_job": {},
    "job_attempts": {},
    "job_steps": {},
    "job_trace": {},
}
SCHEDULE = {"name": "s", "cron": "@daily", "job_type": "work"}
HOOK = {"url": "https://hooks.example.com/in", "sealed_secret": "mh1.a2V5.d3JhcHBlZA==.Ym9keQ=="}
ONE_WORKSPACE: dict[str, dict[str, Any]] = {
    "enqueue_job": {"p_job_type": "work"},
    "enqueue_jobs": {"p_jobs": [{"job_type": "work"}]},
    "emit_event": {"p_name": "x"},
    "queue_stats": {},
    "queue_series": {},
    "count_jobs": {},
    "cancel_jobs": {"p_filter": {"job_type": "work"}},
    "retry_jobs": {"p_filter": {}},
    "dead_letters": {},
    "event_feed": {},
    "list_job_types": {},
    "list_schedules": {},
    "put_schedule": {"p_schedule": SCHEDULE},
    "delete_schedule": {"p_name": "s"},
    "list_webhooks": {},
    "put_webhook": {"p_webhook": HOOK},
    "delete_webhook": {"p_webhook_id": MISSING},
    "test_webhook": {"p_webhook_id": MISSING},
    "workspace_limits": {},
    "set_workspace_limits": {"p_limits": {"own_max_running": 1}},
    "open_guest_session": {},
}
#: Names of what managers may do: it sends data away, lets the world in, or stops colleagues.
MANAGERS = ("test_", "put_", "delete_", "set_", "open_")


@contextmanager
def anyone(engine: Engine) -> Iterator[Engine]:
    """A browser with the publishable key and no user."""
    with engine.database.as_role("anon", {}) as connection:
        yield Engine(engine.database, connection)


def asking_job(engine: Engine) -> str:
    job_id = engine.enqueue({"secret": "s3cr3t"}, session_id="theirs")
    log = {"level": "info", "message": "s3cr3t"}
    step = {"name": "s", "result": "s3cr3t"}
    engine.settle(engine.lease_one(), "waiting", wait=ask(), logs=[log], steps=[step])
    return job_id


def test_staff_see_every_tenant_by_a_claim_that_only_the_project_writes(engine: Engine) -> None:
    """`app_metadata`, and not what a person may write of themselves."""
    job_id = engine.enqueue(workspace=GLOBEX)
    for place, expected in (("app_metadata", [job_id]), ("user_metadata", [])):
        claims = {"sub": GUEST, place: {"minutehand_operator": True}}
        with engine.database.as_role("authenticated", claims) as connection:
            staff = Engine(engine.database, connection)
            assert staff.rows("select id::text from public.jobs") == expected


@pytest.mark.parametrize("function", ONE_JOB)
def test_anothers_job_is_answered_like_a_missing_one(engine: Engine, function: str) -> None:
    """Word for word, and the job is as it was; also to one who was a member until now."""
    job_id = asking_job(engine)
    before = engine.job(job_id)
    member = "insert into workspace_members values (%s, %s, 'manager')"
    engine.run(member, ACME, EVE)
    with engine.member(EVE) as eve:
        eve.rpc("get_job", p_job_id=job_id)
    engine.run("delete from workspace_members where workspace_id = %s and user_id = %s", ACME, EVE)

    with engine.member(EVE) as eve:
        said = []
        for job in (job_id, MISSING):
            with pytest.raises(psycopg.Error) as error:
                eve.rpc(function, p_job_id=job, **ONE_JOB[function])
            diag = error.value.diag
            words = (diag.message_primary, diag.message_hint, diag.message_detail)
            said.append((error.value.sqlstate, str(words).replace(job, "its id")))
        assert said[0] == said[1]
        assert said[0][0] == "PT404"
    assert engine.job(job_id) == before


@pytest.mark.parametrize("function", ONE_WORKSPACE)
def test_anothers_workspace_is_answered_like_a_missing_one(engine: Engine, function: str) -> None:
    """Its own people read and write it; what its managers may do is refused to members."""
    arguments = ONE_WORKSPACE[function]
    with engine.member(EVE) as eve:
        for workspace in (ACME, MISSING):
            answer = refused(eve.rpc, function, p_workspace_id=workspace, **arguments)
            assert answer[:2] == ("PT404", "workspace_not_found")
    with engine.member(BOB) as bob, engine.member(ADA) as ada:
        if function.startswith(MANAGERS):
            answer = refused(bob.rpc, function, p_workspace_id=ACME, **arguments)
            assert answer[:2] == ("PT403", "forbidden")
        if function.startswith(("delete_", "test_")):
            answer = refused(ada.rpc, function, p_workspace_id=ACME, **arguments)
            assert answer[1] in {"schedule_not_found", "webhook_not_found"}
        else:
            ada.rpc(function, p_workspace_id=ACME, **arguments)


def test_rows_and_lists_hold_ones_own_alone(engine: Engine) -> None:
    job_id = asking_job(engine)

    with engine.member(EVE) as eve:
        tables = "select table_name from information_schema.columns where table_schema = 'public'"
        for table in engine.rows(f"{tables} and column_name = 'workspace_id'"):  # of apps, too
            rows = f"select count(*) from public.{table} where workspace_id = %s"
            assert eve.one(rows, ACME) == 0
        assert eve.one("select count(*) from public.workspaces where id = %s", ACME) == 0
        eve.run("update public.jobs set status = 'cancelled'")
        eve.enqueue(workspace=GLOBEX)
        listed = eve.rpc("list_jobs", p_filter={"workspace_id": GLOBEX})["jobs"]
        assert job_id not in [job["id"] for job in listed]
        assert refused(eve.rpc, "list_jobs", p_filter={"workspace_id": ACME})[0] == "PT404"
        insert = "insert into public.jobs (workspace_id, job_type) values (%s, 'work')"
        for workspace in (ACME, MISSING):
            assert refused(eve.run, insert, workspace)[:2] == ("PT404", "workspace_not_found")
        assert [row["id"] for row in eve.rpc("list_workspaces")["workspaces"]] == [GLOBEX]
    assert engine.status(job_id) == "waiting"
    for user in (ADA, BOB):
        with engine.member(user) as person:
            assert [str(one) for one in person.rows("select id from public.jobs")] == [job_id]
            assert person.rpc("get_job", p_job_id=job_id)["id"] == job_id


def test_another_tenants_job_is_no_parent_and_no_child(engine: Engine) -> None:
    other = engine.enqueue(workspace=GLOBEX)

    for missing in (other, MISSING):
        answer = ("PT404", "job_not_found", missing)
        assert refused(engine.enqueue, parent_id=missing) == answer
        items = [{"job_type": "work", "parent_id": missing}]
        assert refused(engine.rpc, "enqueue_jobs", p_workspace_id=ACME, p_jobs=items)[0] == "PT404"


def test_topics_are_open_to_their_members_alone(engine: Engine) -> None:
    """Jobs, workspaces and sessions; also in other letters, or with more around."""
    session = f"chat:{uuid.uuid4()}"
    job_id = engine.enqueue(session_id=session)
    topics = [f"workspace:{ACME}", f"session:{session}", f"job:{job_id}"]
    odd = [
        each
        for topic in topics
        for each in (
            topic.upper(),
            f"{topic} ",
            f" {topic}",
            f"realtime:{topic}",
            f"{topic}:{GLOBEX}",
            topic.replace(":", "::", 1),
            topic.partition(":")[2],
            f"{topic}%",
            topic.replace("-", "_"),
            f"workspace:{GLOBEX},{topic}",
        )
    ]

    with engine.member(ADA) as ada, engine.member(EVE) as eve, anyone(engine) as guest:
        assert [topic for topic in topics if not may_join(ada, topic)] == []
        for who in (eve, guest):
            assert [topic for topic in [*topics, *odd] if may_join(who, topic)] == []
        assert [topic for topic in odd if may_join(ada, topic)] == []
        follow = {"p_follower_id": str(uuid.uuid4())}
        for topic in topics:
            assert refused(eve.rpc, "follow_topic", p_topic=topic, **follow)[0] == "PT404"
            assert ada.rpc("follow_topic", p_topic=topic, **follow)["again_seconds"] == 60


def test_a_session_of_two_tenants_sends_nothing(engine: Engine) -> None:
    """Neither receives the other's events, nor learns that it has the session."""
    topic, follow = "session:s", {"p_follower_id": str(uuid.uuid4())}
    theirs = engine.enqueue(workspace=GLOBEX, session_id="s")
    engine.enqueue(session_id="s")
    said = "select payload ->> 'job_id' from realtime.messages where topic = %s and event ~ 'job'"
    with engine.member(ADA) as ada, engine.member(EVE) as eve:
        for person in (ada, eve):
            assert may_join(person, topic)
            person.rpc("follow_topic", p_topic=topic, **follow)
        engine.run_all()
        assert engine.rows(said, topic) == []
        engine.run("delete from public.jobs where id = %s", theirs)
        assert (may_join(ada, topic), may_join(eve, topic)) == (True, False)
        alone = engine.enqueue(session_id="s")
    assert engine.rows(said, topic) == [alone]


def test_one_tenants_things_are_not_found_by_another_that_names_them(engine: Engine) -> None:
    """Ids are no secret, and a name is a workspace's own."""
    with engine.member(ADA) as ada:
        ada.rpc("put_schedule", p_workspace_id=ACME, p_schedule=SCHEDULE)
        made = ada.rpc("put_webhook", p_workspace_id=ACME, p_webhook=HOOK)
    of_globex = {"p_workspace_id": GLOBEX}
    named: list[tuple[str, dict[str, Any]]] = [
        ("put_webhook", {"p_webhook": {**HOOK, "id": made["id"]}}),
        ("delete_webhook", {"p_webhook_id": made["id"]}),
        ("test_webhook", {"p_webhook_id": made["id"]}),
        ("delete_schedule", {"p_name": "s"}),
    ]
    with engine.member(EVE) as eve:
        for function, arguments in named:
            assert refused(eve.rpc, function, **of_globex, **arguments)[0] == "PT404"
        assert eve.rpc("list_schedules", **of_globex) == {"schedules": []}
        assert eve.rpc("list_webhooks", **of_globex) == {"webhooks": []}
    for kind in ("webhooks", "schedules"):
        assert len(engine.rpc(f"list_{kind}", p_workspace_id=ACME)[kind]) == 1


def test_a_delivery_carries_its_own_workspaces_event_to_its_own_webhook(engine: Engine) -> None:
    engine.publish_deliveries()
    made = engine.rpc("put_webhook", p_workspace_id=ACME, p_webhook=HOOK)
    mine, theirs = engine.enqueue(), engine.enqueue(workspace=GLOBEX)
    kind = "webhook_delivery"
    forged = {"webhook_id": made["id"], "seq": 1}
    for workspace, job_id in ((ACME, theirs), (GLOBEX, mine)):
        lie = engine.enqueue({**forged, "job_id": job_id}, workspace=workspace, job_type=kind)
        lease = next(each for each in engine.lease(job_types=[kind]) if each["job"]["id"] == lie)
        assert engine.rpc("webhook_to_send", p_request=handle(lease))["send"] is False
        gone = {**handle(lease), "ok": False, "status": 410, "message": "410"}
        if workspace == GLOBEX:
            engine.rpc("webhook_sent", p_request=gone)
        engine.settle(lease)

    [listed] = engine.rpc("list_webhooks", p_workspace_id=ACME)["webhooks"]
    assert (listed["enabled"], listed["failures"]) == (True, 0)
    with engine.member(ADA) as ada:
        assert refused(ada.enqueue, job_type="webhook_delivery")[1] == "forbidden"
        assert refused(ada.enqueue_many, 1, job_type="webhook_delivery")[1] == "forbidden"


def opened(engine: Engine, **options: Any) -> str:
    made = engine.rpc("open_guest_session", p_workspace_id=ACME, p_options=options)
    return str(made["session_id"])


def guest_sees(who: Engine, session: str) -> list[str]:
    return [job["id"] for job in who.rpc("guest_session_jobs", p_session_id=session)["jobs"]]


def test_who_holds_a_guest_sessions_id_sees_it_and_nothing_else(engine: Engine) -> None:
    """No payload, no maker, no log line; not another's job that names the session."""
    session, other = opened(engine), opened(engine)
    job_id = engine.enqueue({"prompt": "hidden"}, session_id=session)
    engine.enqueue(session_id=other)
    with engine.member(EVE) as eve:
        eve.enqueue(workspace=GLOBEX, session_id=session)
    lease = next(one for one in engine.lease() if one["job"]["id"] == job_id)
    engine.report(lease, logs=[{"level": "info", "message": "inside"}], progress={"percentage": 4})
    engine.settle(lease, result={"answer": 42})

    with anyone(engine) as guest:
        [job] = guest.rpc("guest_session_jobs", p_session_id=session)["jobs"]
        feed = guest.rpc("session_feed", p_session_id=session)
        assert (job["id"], job["status"], job["result"]) == (job_id, "completed", {"answer": 42})
        assert job.keys().isdisjoint({"payload", "user_id", "workspace_id", "error_data"})
        assert {event["job_id"] for event in feed["events"]} == {job_id}
        assert not {"inside", "hidden"} & set(json.dumps([feed, job]).split('"'))
        for topic in (f"job:{job_id}", f"workspace:{ACME}", f"session:{session[:-1]}"):
            assert not may_join(guest, topic)
        assert may_join(guest, f"session:{session}")


def test_everything_but_the_id_opens_nothing(engine: Engine) -> None:
    """Guesses, ordinary sessions, ended ones, tables: one answer."""
    session, short = opened(engine), opened(engine, ttl_seconds=30)
    plain = f"s-{uuid.uuid4()}"
    for each in (session, short, plain):
        engine.enqueue(session_id=each)
    engine.advance(31)
    none = ["", "guest_", f"guest_{'0' * 64}", session.upper(), f"{session} "]
    with anyone(engine) as guest:
        for guess in [plain, short, *none]:
            for function in ("guest_session_jobs", "session_feed"):
                answer = refused(guest.rpc, function, p_session_id=guess)
                assert answer[:2] == ("PT404", "session_not_found")
            assert not may_join(guest, f"session:{guess}")
        for table in ("jobs", "job_events", "job_logs", "workspaces"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                guest.run(f"select * from public.{table}")
        assert len(guest_sees(guest, session)) == 1
    engine.rpc("set_settings", p_settings={"allow_anonymous": False})
    with anyone(engine) as guest:
        assert refused(guest_sees, guest, session)[0] == "PT404"


def test_a_users_guest_session_is_theirs_alone(engine: Engine) -> None:
    session = opened(engine, user_id=GUEST)
    job_id = engine.enqueue(session_id=session)

    with engine.member(GUEST) as owner:
        assert guest_sees(owner, session) == [job_id]
        assert may_join(owner, f"session:{session}")
        assert owner.rows("select id from public.jobs") == []
    for who in (engine.member(EVE), anyone(engine)):
        with who as stranger:
            assert refused(guest_sees, stranger, session)[0] == "PT404"
            assert not may_join(stranger, f"session:{session}")


def test_a_token_without_a_person_is_no_ones(engine: Engine) -> None:
    """Some projects sign such tokens for devices; the service is named by its role."""
    job_id = engine.enqueue()
    with engine.database.as_role("authenticated") as connection:
        anonymous = Engine(engine.database, connection)
        assert anonymous.rows("select id from public.jobs") == []
        assert refused(anonymous.rpc, "get_job", p_job_id=job_id)[0] == "PT404"
        for kind, name in (("job_type", "work"), ("workspace", ACME)):
            request = {"kind": kind, "name": name}
            assert refused(anonymous.rpc, "pause_jobs", p_request=request)[0] in {"PT403", "PT404"}


def revoke(engine: Engine, grace: int) -> None:
    """Rotate: keys of before answer for the grace alone."""
    now = engine.one("select queue.clock()")
    engine.rpc("revoke_worker_keys", p_before=now, p_grace_seconds=grace)


def test_a_revoked_worker_key_answers_nowhere(engine: Engine) -> None:
    """Old ones for a grace; a later rotation gives the stolen one no other."""
    engine.stop_clock()
    now = time.time()
    engine.enqueue_many(3)

    def leases(age: float) -> Any:
        with engine.database.as_role("job_worker", {"iat": now - age}) as connection:
            worker = Engine(engine.database, connection)
            try:
                return len(worker.lease(1, call=2))
            except psycopg.Error as error:
                return error.diag.message_hint

    assert leases(3600) == 1
    revoke(engine, 360)
    assert leases(3600) == 1
    engine.advance(361)
    assert leases(3600) == "key_revoked"
    revoke(engine, 360)
    assert leases(3600) == "key_revoked"
    assert leases(-361) == 1


def test_a_worker_may_call_its_functions_and_nothing_else(engine: Engine) -> None:
    """What a thief of its key reads signs no guest's address after a rotation."""
    job_id = engine.enqueue()
    with engine.database.as_role("job_worker", {"iat": time.time()}) as connection:
        worker = Engine(engine.database, connection)
        assert ids_of(worker.lease(1, call=2)) == [job_id]
        read = worker.rpc("guest_key")
        for statement in (
            "select * from public.jobs",
            "select public.get_job(gen_random_uuid())",
            f"select public.enqueue_job('{ACME}', 'work')",
            "select public.set_settings('{}')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                worker.run(statement)
    revoke(engine, 0)
    assert engine.rpc("guest_key") != read


def test_who_was_made_a_member_unasked_may_leave(engine: Engine) -> None:
    """A stranger's manager may add anyone: it changes no call of theirs, and no one has to stay."""
    add = "insert into public.workspace_members (workspace_id, user_id) values (%s, %s)"
    with engine.member(EVE) as eve:
        eve.run(add, GLOBEX, BOB)
    with engine.member(BOB) as bob:
        assert bob.rpc("own_workspace") == {"workspace_id": ACME}
        bob.run("delete from public.workspace_members where workspace_id = %s", GLOBEX)

    members = "select user_id::text from public.workspace_members where workspace_id = %s"
    assert engine.rows(members, GLOBEX) == [EVE]
