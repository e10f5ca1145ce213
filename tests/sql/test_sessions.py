"""Whose a session's topic is: the workspace's that used the id first."""

from __future__ import annotations

from uuid import uuid4

from tests.sql.test_guest_sessions import may_follow, spoken
from tests.support.engine import ACME, ADA, EVE, GLOBEX, Engine

TOPIC = "session:s"


def owners(engine: Engine) -> list[str]:
    """The workspaces that own a session id."""
    return [str(owner) for owner in engine.rows("select workspace_id from queue.sessions")]


def test_a_sessions_topic_is_its_first_workspaces(engine: Engine) -> None:
    """Another tenant that uses the id too neither hears, nor speaks, nor disturbs."""
    with engine.member(ADA) as ada, engine.member(EVE) as eve:
        eve.enqueue(workspace=GLOBEX, session_id="s")
        assert may_follow(eve, TOPIC)

        of_acme = ada.enqueue(session_id="s")
        engine.settle(engine.lease(1, job_types=["work"])[0])
        engine.settle(engine.lease_one())

        assert may_follow(eve, TOPIC)
        assert not may_follow(ada, TOPIC)
        feed = ada.rpc("session_feed", p_session_id="s")["events"]
    assert {event["job_id"] for event in feed} == {of_acme}
    assert spoken(engine, TOPIC) == ["job.created", "job.leased", "job.completed"]
    assert of_acme not in engine.rows(
        "select payload ->> 'job_id' from realtime.messages where topic = %s", TOPIC
    )


def test_every_way_to_enqueue_claims_a_session(engine: Engine) -> None:
    """A bulk, a plain row, a child; jobs without a session, or of a guest's, claim nothing."""
    sessions = [{"session_id": "a"}, {}, {"session_id": "guest_" + "0" * 64}]
    items = [{"job_type": "work", **session} for session in sessions]
    engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items)
    with engine.member(ADA) as ada:
        ada.run(
            "insert into public.jobs (workspace_id, job_type, session_id) values (%s, 'work', 'b')",
            ACME,
        )
    child = {"job_type": "work", "session_id": "c"}
    engine.spawn(engine.lease(1)[0], "children", [child])

    assert engine.rows("select session_id from queue.sessions order by 1") == ["a", "b", "c"]


def test_no_spelling_of_a_foreign_topic_opens_it(engine: Engine) -> None:
    """Jobs, workspaces and the apps' sessions, each also in other letters or with more around."""
    sessions = [f"{app}:{uuid4()}" for app in ("chat", "plan", "beacon")]
    jobs = [engine.enqueue(session_id=session) for session in sessions]
    topics = [
        f"workspace:{ACME}",
        *(f"session:{session}" for session in sessions),
        *(f"job:{job_id}" for job_id in jobs),
    ]
    odd = [
        each
        for topic in topics
        for each in (
            topic.upper(), f"{topic} ", f" {topic}", f"{topic}\n", f"realtime:{topic}",
            f"{topic}:{GLOBEX}", topic.replace(":", "::", 1), topic.partition(":")[2], f"{topic}%",
            topic.replace("-", "_"), f"workspace:{GLOBEX},{topic}",
        )
    ]  # fmt: skip
    for topic in [*topics, *odd]:
        engine.run(
            "insert into realtime.messages (topic, extension, event, payload, private)"
            " values (%s, 'broadcast', 'e', '{}', true)",
            topic,
        )

    with engine.member(ADA) as ada, engine.member(EVE) as eve:
        assert [topic for topic in topics if not may_follow(ada, topic)] == []
        assert [topic for topic in [*topics, *odd] if may_follow(eve, topic)] == []
        assert [topic for topic in odd if may_follow(ada, topic)] == []


def test_racing_tenants_settle_on_one_owner(engine: Engine) -> None:
    """Whoever commits first; both jobs are enqueued."""
    engine.race(
        *[
            lambda e, w=workspace: e.enqueue(workspace=w, session_id="s")
            for workspace in (ACME, GLOBEX) * 3
        ]
    )

    assert engine.one("select count(*) from public.jobs") == 6
    assert len(owners(engine)) == 1
    assert len(spoken(engine, TOPIC)) == 3


def test_a_session_is_free_when_its_last_job_is_gone(engine: Engine) -> None:
    """Retention deletes jobs one by one, also while another tenant's still use the id."""
    first, last = (engine.enqueue(session_id="s") for _ in range(2))
    engine.enqueue()
    guests = [engine.enqueue(workspace=GLOBEX, session_id="s") for _ in range(2)]

    for one in (first, *guests):
        engine.run("delete from public.jobs where id = %s", one)
        assert owners(engine) == [ACME]
    engine.enqueue(workspace=GLOBEX, session_id="s")
    engine.run("delete from public.jobs where id = %s", last)
    assert owners(engine) == []
    engine.enqueue(workspace=GLOBEX, session_id="s")
    assert owners(engine) == [GLOBEX]
    engine.run("delete from public.workspaces where id = %s", GLOBEX)
    assert owners(engine) == []


def test_a_session_in_use_is_not_freed_under_the_one_who_uses_it(engine: Engine) -> None:
    """Its last job is deleted while an open transaction enqueues the next."""
    old = engine.enqueue(session_id="s")
    with engine.beside() as other, other.connection.transaction():
        other.enqueue(session_id="s")
        engine.run("delete from public.jobs where id = %s", old)

    assert owners(engine) == [ACME]
