"""No tenant reads, writes, cancels, follows or detects another tenant's jobs."""

import itertools
import json
import re
import time
import uuid
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tests.contract.observed import ask, may_join, refused
from tests.contract.test_prices import CALLS, put, world
from tests.support.engine import (
    ACME,
    ADA,
    BOB,
    EVE,
    GLOBEX,
    MISSING,
    Engine,
    Json,
    handle,
    ids_of,
    piece,
)
from tests.support.renewed import Renewed

#: A user of Supabase Auth who belongs to no workspace.
GUEST = "cccccccc-0000-4000-8000-000000000009"
#: How the names of functions begin that only a workspace's managers may call.
MANAGERS = ("test_", "put_", "delete_", "set_", "open_")


def asking_job(engine: Engine) -> str:
    job_id = engine.enqueue({"secret": "s3cr3t"}, session_id="theirs")
    log = {"level": "info", "message": "s3cr3t"}
    step = {"name": "s", "result": "s3cr3t"}
    engine.settle(engine.lease_one(), "waiting", wait=ask(), logs=[log], steps=[step])
    return job_id


def test_staff_see_every_tenant_by_a_claim_that_only_the_project_writes(engine: Engine) -> None:
    """A user with the operator's claim in `app_metadata` reads the jobs of every tenant.

    The claim in `user_metadata`, which users write themselves, has no effect.
    """
    job_id = engine.enqueue(workspace=GLOBEX)
    for place, expected in (("app_metadata", [job_id]), ("user_metadata", [])):
        claims = {place: {"minutehand_operator": True}}
        with engine.as_role("authenticated", sub=GUEST, **claims) as staff:
            assert staff.rows("select id::text from jobs") == expected


def said_to(who: Engine, function: str, **arguments: Any) -> str:
    """Return the error of a call with its ids replaced.

    Return an empty text if the call succeeds.
    """
    with who.connection.transaction(force_rollback=True):
        try:
            who.rpc(function, **arguments)
        except psycopg.Error as error:
            diag = error.diag
            words = f"{diag.message_hint} {diag.message_primary} {diag.message_detail}"
            return re.sub("[0-9a-f-]{36}", "an id", f"{error.sqlstate} {words}")
    return ""


def test_every_function_answers_nulls_and_strangers_in_its_own_words(
    engine: Engine, eve: Engine, bob: Engine, ada: Engine
) -> None:
    """A function returns one error for a job or workspace of another tenant and for a missing one.

    A former member, and a token without a person, also get this error. Members who are no managers
    get 403 for functions of managers.
    """
    job_id = asking_job(engine)
    before = engine.job(job_id)
    engine.run("insert into workspace_members values (%s, %s, 'manager')", ACME, EVE)
    leave = "delete from workspace_members where (workspace_id, user_id) = (%s, %s)"
    functions = (
        "select p.proname, p.proargnames[:p.pronargs], p.proargtypes::regtype[]::text[]"
        " from pg_proc as p where p.pronamespace = 'public'::regnamespace and p.pronargs > 0"
    )
    values = {"uuid": ACME, "text": "x", "boolean": "f", "integer": "1", "bigint": "1"}
    values |= {"timestamp with time zone": "2030-01-01"}
    assert eve.rpc("get_job", p_job_id=job_id)["id"] == job_id
    engine.run(leave, ACME, EVE)
    with engine.as_role("authenticated") as unnamed:
        for name, names, types in engine.rows(functions):
            good = dict(zip(names, (values.get(kind, "{}") for kind in types), strict=True))
            for who, argument in itertools.product((engine, ada), names):
                response = said_to(who, name, **{**good, argument: None}) or "PT4"
                assert response.startswith(("PT4", "42501")), (name, argument, response)
            of = {"p_workspace_id": ACME, "p_job_id": job_id}
            for who, argument in itertools.product((eve, unnamed), of.keys() & set(names)):
                response = said_to(who, name, **{**good, argument: of[argument]})
                assert response == said_to(who, name, **{**good, argument: MISSING})
                assert response.startswith("PT404" if who is eve else "PT4"), name
            if "p_workspace_id" in names and name.startswith(MANAGERS):
                assert said_to(bob, name, **good).startswith("PT403"), name
    assert engine.job(job_id) == before


def test_an_id_of_an_app_is_missing_to_a_stranger(engine: Engine, eve: Engine) -> None:
    """To another tenant's user, a function of an example app returns the error of a missing id."""
    ids = world(engine, ADA)
    missing = dict.fromkeys(ids, MISSING)
    missing |= {"MESSAGE": f"msg_{MISSING}", "TOPIC": f"workspace:{MISSING}"}
    # These two functions open a new chat session for an unknown id.
    own = {"chat_request", "chat_messages"}
    for name in CALLS.keys() - own:
        theirs, none = (put(CALLS[name], each, "x") for each in (ids, missing))
        if name in {"delete_webhook", "test_webhook"}:  # Ada's own webhook
            theirs["p_workspace_id"] = none["p_workspace_id"] = GLOBEX
        if theirs != none:
            response = said_to(eve, name, **theirs)
            assert response == said_to(eve, name, **none)
            assert response.startswith("PT404"), name


#: Callers who do not belong to the workspace: a database role, and the claims of the token.
STRANGERS: dict[str, tuple[str, Json]] = {
    "a rival": ("authenticated", {"sub": EVE}),
    "of no workspace": ("authenticated", {"sub": GUEST}),
    "anonymous": ("authenticated", {"sub": GUEST, "is_anonymous": True}),
    "no person": ("authenticated", {}),
    "of another provider": ("authenticated", {"sub": "user_2aBcDeF"}),
    "a guest": ("anon", {}),
    "a worker": ("job_worker", {"iat": 4_000_000_000}),
}


#: A query of all tables and views, with their columns and the types of required columns.
TABLES = """
select c.table_schema || '.' || c.table_name, bool_or(t.tablename is not null), jsonb_object_agg(
  c.column_name, case when c.is_nullable = 'NO' and c.column_default is null then c.udt_name end)
from information_schema.columns as c
left join pg_tables as t on (t.schemaname, t.tablename) = (c.table_schema, c.table_name)
where c.table_schema in ('public', 'queue') and c.is_generated = 'NEVER' and c.is_identity = 'NO'
group by 1"""
OF_ACME = f"where workspace_id = '{ACME}'"
VALUES = {"uuid": MISSING, "jsonb": {}, "timestamptz": "2030-01-01", "bool": True, "text": "s3cr3t"}


def fill(engine: Engine, table: str, columns: dict[str, str | None]) -> None:
    """Insert a row of a workspace into a table without the table's checks and triggers."""
    needed = {name: kind for name, kind in columns.items() if kind}
    row = {name: VALUES.get(kind, [] if kind[0] == "_" else 1) for name, kind in needed.items()}
    row |= {"workspace_id": ACME} if "workspace_id" in columns else {}
    names = ", ".join(row)
    checks = "select conname from pg_constraint where contype = 'c' and conrelid = %s::regclass"
    engine.run("set session_replication_role = replica")
    for name in engine.rows(checks, table):
        engine.run(f'alter table {table} drop constraint "{name}"')
    made = f"select {names} from jsonb_populate_record(null::{table}, %s)"
    engine.run(f"insert into {table} ({names}) {made}", Jsonb(row))
    engine.run("reset session_replication_role")


def shows(by: psycopg.Connection[Any], statement: str, words: list[str]) -> bool:
    """Return whether a statement's result contains one of the words.

    An error also counts, except a denied permission.
    """
    try:
        rows = str(by.execute(statement.encode()).fetchall())
    except psycopg.Error as error:
        return error.sqlstate not in {"42501", "PT401", "PT404"}
    return any(word in rows for word in words)


def test_no_column_of_anothers_is_read_or_written(renewed: Renewed) -> None:
    """No user outside a workspace reads or writes any column of the workspace's rows.

    The test covers all tables and views, including those of the example apps.
    """
    engine = Engine(renewed, renewed.session())
    engine.register()
    words = [ACME, ADA, BOB, asking_job(engine), "s3cr3t"]
    statements = []
    for table, is_table, columns in engine.rows(TABLES):
        statements += [f"select {column} from {table}" for column in columns]
        if "workspace_id" not in columns:
            continue
        if is_table and not engine.rows(f"select from {table} {OF_ACME}"):
            fill(engine, table, columns)
        assert not is_table or shows(engine.connection, f"select * from {table}", words)
        statements.append(f"delete from {table} {OF_ACME} returning '{ACME}'")
        for column in columns:
            statements.append(f"update {table} set {column} = null {OF_ACME} returning '{ACME}'")
            row = {column: "null", "workspace_id": f"'{ACME}'"}
            names, values = ", ".join(row), ", ".join(row.values())
            statements.append(f"insert into {table} ({names}) values ({values}) returning '{ACME}'")
    through = []
    for who, (role, claims) in STRANGERS.items():
        with engine.as_role(role, **claims) as stranger:
            found = (each for each in statements if shows(stranger.connection, each, words))
            through += [(who, each) for each in found]
    assert through == []


def test_another_tenants_job_is_no_parent_and_no_child(engine: Engine) -> None:
    other = engine.enqueue(workspace=GLOBEX)

    for missing in (other, MISSING):
        answer = ("PT404", "job_not_found", missing)
        assert refused(engine.enqueue, parent_id=missing) == answer
        items = [{"job_type": "work", "parent_id": missing}]
        assert refused(engine.rpc, "enqueue_jobs", p_workspace_id=ACME, p_jobs=items)[0] == "PT404"


def test_topics_are_open_to_their_members_alone(engine: Engine, eve: Engine, ada: Engine) -> None:
    """Only a workspace's members can join the Realtime topics of its jobs and its sessions.

    No one can join a similar topic name, such as one in upper case.
    """
    session = f"chat:{uuid.uuid4()}"
    job_id = engine.enqueue(session_id=session)
    topics = [f"workspace:{ACME}", f"session:{session}", f"job:{job_id}"]
    around = ("{} ", " {}", "realtime:{}", "{}:x", "{}%", f"workspace:{GLOBEX},{{}}")
    odd = [each.format(topic) for topic in topics for each in around]
    for topic in topics:
        odd += [topic.upper(), topic.replace(":", "::", 1), topic.replace("-", "_")]
        odd.append(topic.partition(":")[2])
    forged = "insert into realtime.messages (topic, extension) values (%s, 'broadcast')"
    for role, claims in STRANGERS.values():
        with engine.as_role(role, **claims) as who:
            for topic in [*topics, *(odd if claims.get("sub") == EVE else ())]:
                assert not may_join(who, topic)
                assert refused(who.run, forged, topic)[0] == "42501"
    assert [topic for topic in topics if not may_join(ada, topic)] == []
    assert [topic for topic in odd if may_join(ada, topic)] == []
    follow = {"p_follower_id": str(uuid.uuid4())}
    for topic in topics:
        assert refused(eve.rpc, "follow_topic", p_topic=topic, **follow)[0] == "PT404"
        assert ada.rpc("follow_topic", p_topic=topic, **follow)["again_seconds"] == 2


def test_the_topic_of_workers_is_open_to_no_person(engine: Engine) -> None:
    """No signed-in person can join the Realtime topic that wakes workers.

    A worker joins without a token, because only responses to workers contain the topic's name.
    """
    topic = engine.lease_call(listens=True)["wake_topic"]
    engine.enqueue()
    engine.rpc("emit_event", p_workspace_id=ACME, p_name="event")
    for kind, name in (("workspace", ACME), ("job_type", "work")):
        engine.pause(kind, name)
        engine.resume(kind, name)
    sent = "select payload ->> 'job_type' from realtime.messages where topic = %s order by id"

    assert engine.rows(sent, topic) == ["work", None, None, None]
    members = {user: ("authenticated", {"sub": user}) for user in (ADA, BOB)}
    for name, (role, claims) in (STRANGERS | members).items():
        with engine.as_role(role, **claims) as who:
            assert may_join(who, topic) is (name == "a guest" or name == "no person")
            assert not may_join(who, f"worker:{MISSING}")
    assert engine.lease_call().get("wake_topic") is None


def test_a_session_of_two_tenants_sends_nothing(engine: Engine, eve: Engine, ada: Engine) -> None:
    """If jobs of two tenants have one session id, the session's Realtime topic sends no events.

    When only one tenant's jobs are left, that tenant gets events again.
    """
    topic, follow = "session:s", {"p_follower_id": str(uuid.uuid4())}
    theirs = engine.enqueue(workspace=GLOBEX, session_id="s")
    engine.enqueue(session_id="s")
    response = (
        "select payload ->> 'job_id' from realtime.messages where topic = %s and event ~ 'job'"
    )
    for person in (ada, eve):
        assert may_join(person, topic)
        person.rpc("follow_topic", p_topic=topic, **follow)
    engine.run_all()
    assert engine.rows(response, topic) == []
    engine.delete(theirs)
    assert (may_join(ada, topic), may_join(eve, topic)) == (True, False)
    alone = engine.enqueue(session_id="s")
    assert engine.rows(response, topic) == [alone]


def test_a_delivery_carries_its_own_workspaces_event_to_its_own_webhook(
    engine: Engine, ada: Engine
) -> None:
    engine.publish_deliveries()
    made = engine.put_webhook()
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
    assert refused(ada.enqueue, job_type="webhook_delivery")[1] == "forbidden"
    assert refused(ada.enqueue_many, 1, job_type="webhook_delivery")[1] == "forbidden"


def opened(engine: Engine, **options: Any) -> str:
    made = engine.rpc("open_guest_session", p_workspace_id=ACME, p_options=options)
    return made["session_id"]


def guest_sees(who: Engine, session: str) -> list[str]:
    return [job["id"] for job in who.rpc("guest_session_jobs", p_session_id=session)["jobs"]]


def test_who_holds_a_guest_sessions_id_sees_it_and_nothing_else(
    engine: Engine, eve: Engine
) -> None:
    """A guest with a session's id sees the session's jobs without payload, user and log lines.

    The guest sees no other job.
    """
    session, other = opened(engine), opened(engine)
    job_id = engine.enqueue({"prompt": "hidden"}, session_id=session)
    engine.enqueue(session_id=other)
    eve.enqueue(workspace=GLOBEX, session_id=session)
    lease = next(one for one in engine.lease() if one["job"]["id"] == job_id)
    log = {"level": "info", "message": "inside"}
    engine.report(lease, logs=[log], progress={"percentage": 4}, output=[piece("hello")])
    engine.settle(lease, result={"answer": 42})

    with engine.as_role("anon") as guest:
        [job] = guest.rpc("guest_session_jobs", p_session_id=session)["jobs"]
        feed = guest.rpc("session_feed", p_session_id=session)
        assert (job["id"], job["status"], job["result"]) == (job_id, "completed", {"answer": 42})
        assert job.keys().isdisjoint({"payload", "user_id", "workspace_id", "error_data"})
        assert {event["job_id"] for event in feed["events"]} == {job_id}
        shown = guest.rpc("guest_job", p_session_id=session, p_job_id=job_id, p_after=0)
        events = shown.pop("events")
        assert shown == {**job, "streams": {"reply": {"attempt": 1, "next": 5}}}
        assert [event["seq"] for event in events] == list(range(1, shown["last_seq"] + 1))
        assert "job.log" in {event["type"] for event in events}
        assert not {"inside", "hidden"} & set(json.dumps([feed, shown, events]).split('"'))
        [response] = guest.rpc("session_output", p_session_id=session, p_after={job_id: {}})["jobs"]
        assert (response["job_id"], response["streams"][0]["text"]) == (job_id, "hello")
        for topic in (f"job:{job_id}", f"workspace:{ACME}", f"session:{session[:-1]}"):
            assert not may_join(guest, topic)
        assert may_join(guest, f"session:{session}")


def test_everything_but_the_id_opens_nothing(engine: Engine) -> None:
    """A guest with a guessed, ordinary or expired session id gets an error and no data."""
    session, short = opened(engine), opened(engine, ttl_seconds=30)
    plain = f"s-{uuid.uuid4()}"
    job_id, _, _ = (engine.enqueue(session_id=each) for each in (session, short, plain))
    engine.advance(31)
    none = ["", "guest_", f"guest_{'0' * 64}", session.upper(), f"{session} "]
    with engine.as_role("anon") as guest:
        for guess in [plain, short, *none]:
            for function in ("guest_session_jobs", "session_feed", "session_output"):
                answer = refused(guest.rpc, function, p_session_id=guess)
                assert answer[:2] == ("PT404", "session_not_found")
            for function in ("guest_job", "job_output"):
                answer = refused(guest.rpc, function, p_session_id=guess, p_job_id=job_id)
                assert answer[:2] == ("PT404", "job_not_found")
            assert not may_join(guest, f"session:{guess}")
        assert len(guest_sees(guest, session)) == 1
    engine.set(allow_anonymous=False)
    with engine.as_role("anon") as guest:
        assert refused(guest_sees, guest, session)[0] == "PT404"


def test_a_users_guest_session_is_theirs_alone(engine: Engine) -> None:
    session = opened(engine, user_id=GUEST)
    job_id = engine.enqueue(session_id=session)

    with engine.member(GUEST) as owner:
        assert guest_sees(owner, session) == [job_id]
        assert may_join(owner, f"session:{session}")
        assert owner.rows("select id from jobs") == []
    for who in (engine.member(EVE), engine.as_role("anon")):
        with who as stranger:
            assert refused(guest_sees, stranger, session)[0] == "PT404"
            of = {"p_session_id": session, "p_job_id": job_id}
            assert refused(stranger.rpc, "guest_job", **of)[0] == "PT404"
            assert not may_join(stranger, f"session:{session}")


def test_a_revoked_worker_key_answers_nowhere(engine: Engine) -> None:
    """A revoked worker key is valid until its grace period ends.

    A second rotation of keys does not extend that period.
    """
    engine.stop_clock()
    now = time.time()
    engine.enqueue_many(3)

    def leases(age: float) -> Any:
        with engine.as_role("job_worker", iat=now - age) as worker:
            try:
                return len(worker.lease(1, call=2))
            except psycopg.Error as error:
                return error.diag.message_hint

    assert leases(3600) == 1
    engine.revoke_keys(p_grace_seconds=360)
    assert leases(3600) == 1
    engine.advance(361)
    assert leases(3600) == "key_revoked"
    engine.revoke_keys(p_grace_seconds=360)
    assert leases(3600) == "key_revoked"
    assert leases(-361) == 1


def test_what_a_worker_read_signs_no_address_after_a_rotation(engine: Engine) -> None:
    """A rotation of worker keys also replaces the key that signs guest sessions.

    A stolen worker key therefore cannot impersonate guests after the rotation.
    """
    job_id = engine.enqueue()
    with engine.as_role("job_worker", iat=time.time()) as worker:
        assert ids_of(worker.lease(1, call=2)) == [job_id]
        read = worker.rpc("guest_key")
    engine.revoke_keys(p_grace_seconds=0)
    assert engine.rpc("guest_key") != read


def test_who_was_made_a_member_unasked_may_leave(engine: Engine, bob: Engine, eve: Engine) -> None:
    """A manager may add any user to a workspace.

    The user can leave it again, and the user's own first workspace stays the default.
    """
    add = "insert into workspace_members (workspace_id, user_id) values (%s, %s)"
    eve.run(add, GLOBEX, BOB)
    assert bob.rpc("own_workspace") == {"workspace_id": ACME}
    bob.run("delete from workspace_members where workspace_id = %s", GLOBEX)

    members = "select user_id::text from workspace_members where workspace_id = %s"
    assert engine.rows(members, GLOBEX) == [EVE]


def test_a_removed_members_topics_are_closed_to_them(engine: Engine, ada: Engine) -> None:
    """When a member is removed, no topic can be joined, and the topics send no more messages."""
    job_id, lease = engine.start(session_id="theirs")
    topics = [f"job:{job_id}", f"workspace:{ACME}", "session:theirs"]
    ada.follow(*topics)
    sent = "realtime.messages where topic = %s"
    assert engine.say(lease, piece("x")) == "followed"
    engine.rpc("stream_topics", p_topics=["job:x", "session:", "x"])  # prevents no removal

    engine.run("delete from workspace_members where user_id = %s", ADA)

    assert engine.rows("select topic from queue.followers") == []
    before = engine.count(sent, topics[0])
    engine.say(lease, piece("x", 1))
    assert engine.count(sent, topics[0]) == before
    assert [topic for topic in topics if may_join(ada, topic)] == []


def test_a_link_to_a_training_that_was_ended_shows_nothing(engine: Engine) -> None:
    training, share = world(engine, ADA)["TRAINING"], "update trainings set share_id = %s"
    engine.run(f"{share}, procedure = '{{\"procedure\": {{}}}}' where id = %s", MISSING, training)
    with engine.as_role("anon") as guest:
        assert any(guest.rpc("training_shared", p_share_id=MISSING).values())
        engine.run(share, None)
        assert not any(guest.rpc("training_shared", p_share_id=MISSING).values())
