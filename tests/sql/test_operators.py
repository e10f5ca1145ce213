"""People on call: what they see of all workspaces and may do, and that all is written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.test_webhooks import SEALED
from tests.support.databases import Database
from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal

OLGA = "aaaaaaaa-0000-4000-8000-0000000000ca"


@pytest.fixture
def olga(engine: Engine) -> Iterator[Engine]:
    """An operator who belongs to no workspace."""
    engine.rpc("set_operator", p_user_id=OLGA, p_note="on call")
    with engine.member(OLGA) as session:
        yield session


def actions(engine: Engine, **scope: Any) -> list[tuple[str, bool]]:
    """What was done, the latest first, and whether by an operator."""
    found = engine.rpc("list_actions", **scope)["actions"]
    return [(one["action"], one["as_operator"]) for one in found]


def test_no_grant_lets_a_person_name_operators(seeded: Database) -> None:
    """A project may have granted every function of its schemas, to expose one of its own."""
    with seeded.connect() as connection:
        engine = Engine(seeded, connection)
        engine.run("grant execute on all functions in schema public to authenticated")
        with engine.member(ADA) as ada, pytest.raises(psycopg.Error) as refused:
            ada.rpc("set_operator", p_user_id=ADA)

    assert refusal(refused.value)[0] == "PT403"


def test_an_operator_lists_the_jobs_of_every_workspace_without_their_payloads(
    engine: Engine, olga: Engine
) -> None:
    """Enough to see what is wrong and where; what is inside takes opening."""
    ours = engine.enqueue({"secret": 1}, workspace=ACME)
    theirs = engine.enqueue({"secret": 2}, workspace=GLOBEX)
    for lease in engine.lease(2):
        engine.settle(lease, result="secret")

    page = olga.rpc("operator_jobs")

    assert [job["id"] for job in page["jobs"]] == [theirs, ours]
    for job in page["jobs"]:
        assert job["workspace_name"]
        assert not {"payload", "result", "error_data"} & set(job)
    assert page["next"] is None


def test_the_list_is_filtered_and_paged(engine: Engine, olga: Engine) -> None:
    """By workspace, state, type and words; the cursor is the last id."""
    ids = [engine.enqueue(workspace=GLOBEX) for _ in range(5)]
    engine.enqueue(workspace=ACME)
    engine.lease(1)
    first = olga.rpc("operator_jobs", p_filter={"workspace_id": GLOBEX}, p_limit=3)
    rest = olga.rpc(
        "operator_jobs", p_filter={"workspace_id": GLOBEX}, p_cursor=first["next"], p_limit=3
    )

    assert [job["id"] for job in first["jobs"] + rest["jobs"]] == ids[::-1]
    assert len(olga.rpc("operator_jobs", p_filter={"status": ["processing"]})["jobs"]) == 1
    engine.enqueue(job_type="webhook_delivery")
    for filters, count in (
        ({"search": "nothing"}, 0),
        ({"created_after": "2199-01-01"}, 0),
        ({}, 6),
    ):
        assert len(olga.rpc("operator_jobs", p_filter=filters)["jobs"]) == count, filters


def test_looking_again_and_again_is_one_look(engine: Engine, olga: Engine) -> None:
    """A page that polls does not fill the audit."""
    for _ in range(5):
        olga.rpc("operator_jobs", p_filter={"status": ["failed"]})
    olga.rpc("operator_jobs")
    assert actions(olga) == [("list", True)] * 2
    engine.advance(601)
    olga.rpc("operator_failures")
    olga.rpc("operator_jobs")
    assert actions(olga) == [("list", True)] * 4

    engine.rpc("set_operator", p_user_id=ADA)
    with engine.member(ADA) as ada:  # another person's look is another
        ada.rpc("operator_jobs")
    assert actions(olga) == [("list", True)] * 5


def test_opening_a_job_gives_its_workspace_for_a_time_and_no_other(
    engine: Engine, olga: Engine
) -> None:
    """Then every rule is the member's; when the time is over, nothing is left."""
    job_id = engine.enqueue({"secret": 1}, workspace=GLOBEX)
    other = engine.enqueue(workspace=ACME)
    assert olga.rows("select id from public.jobs") == []

    opened = olga.rpc("operator_open", p_request={"job_id": job_id, "reason": "ticket 7"})

    assert opened["workspace_id"] == GLOBEX
    assert [str(one) for one in olga.rows("select id from public.jobs")] == [job_id]
    assert olga.rpc("get_job", p_job_id=job_id)["payload"] == {"secret": 1}
    with pytest.raises(psycopg.Error) as error:
        olga.rpc("get_job", p_job_id=other)
    assert refusal(error.value)[:2] == ("PT404", "job_not_found")
    engine.advance(3601)
    assert olga.rows("select id from public.jobs") == []


def test_a_workspace_opened_again_for_less_time_stays_open_for_the_longer(
    engine: Engine, olga: Engine
) -> None:
    """A second page of the same incident cuts no one's work short; eight hours are the most."""
    engine.stop_clock()
    told = {
        olga.rpc("operator_open", p_request={"workspace_id": GLOBEX, **request})["expires_at"]
        for request in ({"minutes": 10_000, "reason": "first"}, {"minutes": 5, "reason": "second"})
    }
    [opened] = olga.rpc("operator_session")["opened"]
    shift = engine.one("select expires_at - opened_at from queue.operator_access")

    assert shift == timedelta(hours=8)
    assert (told, opened["reason"]) == ({opened["expires_at"]}, "second")
    for closed in (True, False):
        assert olga.rpc("operator_close", p_workspace_id=GLOBEX) == {"closed": closed}
    assert olga.rpc("operator_session") == {"operator": True, "opened": []}
    assert [action for action, _ in actions(olga)] == ["close", "open", "open"]
    engine.rpc("set_operator", p_user_id=ADA)
    with engine.member(ADA) as ada:
        ada.rpc("operator_open", p_request={"workspace_id": GLOBEX, "reason": "ticket 8"})
        assert olga.rpc("operator_close", p_workspace_id=GLOBEX) == {"closed": False}
        assert len(ada.rpc("operator_session")["opened"]) == 1, "another's opening is another's"
    for unknown in ("job_id", "workspace_id"):
        with pytest.raises(psycopg.Error) as error:
            olga.rpc("operator_open", p_request={unknown: OLGA, "reason": "ticket 7"})
        assert refusal(error.value)[0] == "PT404"


def test_people_are_named_to_those_they_met_in_a_workspace_and_to_operators(
    engine: Engine, olga: Engine
) -> None:
    """Addresses of strangers are no one's business."""
    engine.run("insert into auth.users (id, email) values (%s, 'olga@ops.test')", OLGA)

    def named(who: Engine) -> list[str]:
        ids = [ADA, EVE, OLGA]
        return sorted(who.one("select public.people(%s::uuid[])", ids).values())

    with engine.member(BOB) as bob, engine.member(EVE) as eve:
        assert named(bob) == ["ada@acme.test"]
        olga.rpc("operator_open", p_request={"workspace_id": ACME, "reason": "ticket 7"})
        assert named(bob) == ["ada@acme.test", "olga@ops.test"]
        assert named(eve) == ["eve@globex.test"]
    many = [*(f"{n:032x}" for n in range(200)), ADA]
    assert olga.one("select public.people(%s::uuid[])", many) == {}, "of two hundred at most"
    assert named(olga) == named(engine) == ["ada@acme.test", "eve@globex.test", "olga@ops.test"]


def test_who_has_left_a_workspace_is_not_named_for_what_they_did_there(engine: Engine) -> None:
    """What they did stays in the log of actions, under their id."""
    with engine.member(ADA) as ada:
        ada.rpc("cancel_job", p_job_id=engine.enqueue(workspace=ACME))
    engine.run("update public.workspace_members set role = 'manager' where user_id = %s", BOB)
    engine.run("delete from public.workspace_members where user_id = %s", ADA)

    with engine.member(BOB) as bob:
        assert bob.one("select public.people(%s::uuid[])", [ADA]) == {}


def test_a_member_sees_what_operators_did_in_the_workspace(engine: Engine, olga: Engine) -> None:
    """Being looked at is no secret; another workspace's is."""
    job_id = engine.enqueue(workspace=ACME)
    olga.rpc("operator_open", p_request={"job_id": job_id, "reason": "ticket 7"})
    olga.rpc("cancel_job", p_job_id=job_id)

    with engine.member(ADA) as ada:
        assert actions(ada, p_job_id=job_id) == [("cancel", True), ("open", True)]
        assert actions(ada, p_workspace_id=ACME) == [("cancel", True), ("open", True)]
    with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as error:
        actions(eve, p_workspace_id=ACME)
    assert refusal(error.value)[:2] == ("PT404", "workspace_not_found")


def test_members_own_acts_are_written_down_too(engine: Engine) -> None:
    """Who cancelled it, who retried it, who paused the workspace and why."""
    job_id = engine.enqueue()
    engine.rpc("pause_jobs", p_request={"kind": "workspace", "name": GLOBEX})  # not theirs to read
    with engine.member(BOB) as bob:
        for _ in range(2):
            bob.rpc("cancel_job", p_job_id=job_id)
            bob.rpc("retry_job", p_job_id=job_id)
    with engine.member(ADA) as ada:
        ada.rpc("pause_jobs", p_request={"kind": "workspace", "name": ACME, "reason": "a move"})
        ada.operate("cancel", job_type="work")
        done = ada.rpc("list_actions", p_workspace_id=ACME)["actions"]
        page = {"p_before": done[0]["id"], "p_limit": 2}
        assert ada.rpc("list_actions", p_workspace_id=ACME, **page)["actions"] == done[1:3]

    assert [(one["action"], one["user_id"], one["jobs"]) for one in done] == [
        ("cancel", ADA, 1),
        ("pause", ADA, 0),
        *[("retry", BOB, 1), ("cancel", BOB, 1)] * 2,
    ]
    assert (done[1]["detail"]["reason"], done[1]["by"]) == ("a move", "ada@acme.test")
    assert not any(one["as_operator"] for one in done)


def test_a_cancel_by_plain_update_names_the_person(engine: Engine) -> None:
    """The Data API's way in leaves the same trace."""
    job_id = engine.enqueue()
    with engine.member(BOB) as bob:
        bob.run("update public.jobs set status = 'cancelled' where id = %s", job_id)

    assert engine.rows("select action, user_id::text from queue.actions") == [("cancel", BOB)]


def test_an_operator_pauses_what_only_operators_may(engine: Engine, olga: Engine) -> None:
    """A job type for everyone, by the person and not by a shared secret."""
    engine.enqueue()
    olga.rpc("pause_jobs", p_request={"kind": "job_type", "name": "work", "reason": "bad release"})

    assert engine.lease() == []
    assert actions(olga)[0] == ("pause", True)
    assert engine.one("select paused_by from queue.job_types where job_type = 'work'") == OLGA
    olga.rpc("pause_jobs", p_request={"kind": "job_type", "name": "work", "paused": False})
    assert len(engine.lease()) == 1


def test_an_open_workspace_is_a_members_and_not_a_managers(engine: Engine, olga: Engine) -> None:
    """Secrets of webhooks, schedules and limits stay with its managers."""
    olga.rpc("operator_open", p_request={"workspace_id": ACME, "reason": "ticket 7"})
    with pytest.raises(psycopg.Error) as error:
        olga.rpc("put_webhook", p_workspace_id=ACME, p_webhook={"url": "https://example.com/"})

    assert refusal(error.value)[:2] == ("PT403", "forbidden")


@pytest.mark.parametrize("reason", [None, "", "  "])
def test_opening_needs_a_reason(olga: Engine, reason: str | None) -> None:
    """Its members read it; without one they would only see that somebody was there."""
    with pytest.raises(psycopg.Error) as error:
        olga.rpc("operator_open", p_request={"workspace_id": ACME, "reason": reason})

    assert refusal(error.value) == ("PT400", "invalid_argument", "reason")


def asking(of: Engine) -> str:
    """A job of Acme's that waits for an answer."""
    with of.beside() as engine:
        engine.enqueue(priority=0)
        lease = engine.lease_one(limit=1)
        engine.settle(lease, "waiting", wait={"kind": "ask", "name": "s", "question": "Go on?"})
    return str(lease["job"]["id"])


#: What a member may do to the engine's rows, and how the log names an operator's doing it.
ACTS: dict[str, tuple[str, Callable[[Engine, str], Any]]] = {
    "enqueue": ("enqueue", lambda o, job: o.enqueue()),
    "enqueue many": ("enqueue", lambda o, job: o.enqueue_many(2)),
    "insert": (
        "enqueue",
        lambda o, job: o.run(
            "insert into public.jobs (workspace_id, job_type) values (%s, 'work')", ACME
        ),
    ),
    "change": (
        "change",
        lambda o, job: o.run("update public.jobs set priority = 7 where id = %s", job),
    ),
    "change of its time": (
        "change",
        lambda o, job: o.run(
            "update public.jobs set scheduled_for = now() + interval '1 day' where id = %s", job
        ),
    ),
    "cancel": ("cancel", lambda o, job: o.rpc("cancel_job", p_job_id=job)),
    "retry": (
        "retry",
        lambda o, job: [o.rpc(f"{act}_job", p_job_id=job) for act in ("cancel", "retry")],
    ),
    "answer": (
        "answer",
        lambda o, job: o.rpc("answer_job", p_job_id=asking(o), p_answer={"answer": 1}),
    ),
    "cancel by update": (
        "cancel",
        lambda o, job: o.run("update public.jobs set status = 'cancelled' where id = %s", job),
    ),
    "cancel many": (
        "cancel",
        lambda o, job: o.operate("cancel", job_type="work"),
    ),
    "emit": ("emit", lambda o, job: o.rpc("emit_event", p_workspace_id=ACME, p_name="paid")),
    "batch": ("batch", lambda o, job: o.rpc("create_batch", p_workspace_id=ACME)),
}


@pytest.mark.parametrize("name", ACTS)
def test_what_only_the_opening_allowed_is_in_the_log(
    engine: Engine, olga: Engine, name: str
) -> None:
    """Whatever the way in; an operator who is a member of the workspace acts as a member."""
    action, act = ACTS[name]
    job_id = engine.enqueue()
    olga.rpc("operator_open", p_request={"workspace_id": ACME, "reason": "ticket 7"})
    act(olga, job_id)

    with engine.member(ADA) as ada:
        done = actions(ada, p_workspace_id=ACME)
        assert (action, True) in done
        assert {word for word, _ in done} <= {"open", "cancel", action}
        assert len(done) <= 3
    with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as error:
        actions(eve, p_job_id=job_id)
    assert refusal(error.value)[:2] == ("PT404", "job_not_found")
    engine.run("delete from queue.actions")
    engine.rpc("set_operator", p_user_id=ADA)
    with engine.member(ADA) as ada:
        ada.rpc("operator_open", p_request={"workspace_id": GLOBEX, "reason": "ticket 8"})
        act(ada, engine.enqueue())
    assert not any(
        engine.rows(
            "select as_operator from queue.actions where action = %s and workspace_id = %s",
            action,
            ACME,
        )
    )


PLAN = {"prompt": "Plant a hedge", "speed_vs_detail": "fast_but_skip_details"}


def plan_of_ada(engine: Engine) -> dict[str, Any]:
    """A plan of Acme."""
    engine.register("plan")
    with engine.member(ADA) as ada:
        return dict(ada.rpc("plan_start", p_workspace_id=ACME, p_plan=PLAN))


def test_rows_of_apps_are_read_only_to_operators(engine: Engine, olga: Engine) -> None:
    """A contact, a note, a plan: what is the tenant's own work is changed by its people."""
    account = engine.one(
        "insert into public.accounts (workspace_id, name) values (%s, 'Hedge Ltd')"
        " returning id::text",
        ACME,
    )
    made = plan_of_ada(engine)
    session = "guest_" + "c" * 64
    engine.run(
        "insert into queue.guest_sessions (session_id, workspace_id, user_id, expires_at)"
        " values (%s, %s, %s, queue.clock() + interval '1 day')",
        *(session, ACME, ADA),
    )
    engine.run(
        "insert into public.chat_conversations (workspace_id, session_id) values (%s, %s)",
        *(ACME, session),
    )
    olga.rpc("operator_open", p_request={"workspace_id": ACME, "reason": "ticket 7"})
    assert olga.one("select name from public.accounts where id = %s", account) == "Hedge Ltd"

    for change in (
        lambda: olga.run("insert into public.accounts (workspace_id, name) values (%s, 'X')", ACME),
        lambda: olga.run("update public.accounts set name = 'X' where id = %s", account),
        lambda: olga.rpc("chat_delete", p_session_id=session),
        lambda: olga.rpc("plan_cancel", p_plan_id=made["plan_id"]),
        lambda: olga.rpc("plan_delete", p_plan_id=made["plan_id"]),
        lambda: olga.rpc("plan_start", p_workspace_id=ACME, p_plan=PLAN),
    ):
        with pytest.raises(psycopg.Error) as error:
            change()
        assert refusal(error.value)[:2] == ("PT403", "forbidden")


def test_an_operator_still_steers_the_job_of_an_apps_row(engine: Engine, olga: Engine) -> None:
    """What follows from it in the app's rows is the job's."""
    made = plan_of_ada(engine)
    olga.rpc("operator_open", p_request={"workspace_id": ACME, "reason": "ticket 7"})

    olga.rpc("cancel_job", p_job_id=made["job_id"])

    assert engine.one("select status from public.plans") == "cancelled"
    assert actions(engine, p_job_id=made["job_id"]) == [("cancel", True)]


#: The engine's own tables of people: closed to writes, or written down by triggers.
ENGINES = {"jobs", "job_events", "job_logs", "workspaces", "workspace_members"}


def test_every_table_of_an_app_is_closed_to_operators(engine: Engine) -> None:
    """A table that is made tomorrow fails here until its migration names it."""
    open_tables = engine.rows(
        "select c.relname::text from pg_catalog.pg_class as c"
        " join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attname = 'workspace_id'"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')"
        " and not exists (select from pg_catalog.pg_trigger as t"
        "   where t.tgrelid = c.oid and t.tgname = 'operators_read_only')"
    )

    assert set(open_tables) - ENGINES == set()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("operator_jobs", {}),
        ("operator_counts", {}),
        ("operator_failures", {}),
        ("operator_workers", {}),
        ("operator_workspaces", {}),
        ("operator_open", {"p_request": {"workspace_id": GLOBEX}}),
        ("list_actions", {}),
        ("queue_series", {}),
    ],
)
def test_no_one_else_may(engine: Engine, function: str, arguments: dict[str, Any]) -> None:
    """Not even the manager of a workspace."""
    with engine.member(ADA) as ada, pytest.raises(psycopg.Error) as error:
        ada.rpc(function, **arguments)

    assert refusal(error.value)[:2] == ("PT403", "forbidden")


def test_an_operator_is_none_any_more_at_once(engine: Engine, olga: Engine) -> None:
    """What they had open closes with it, and stays closed to who becomes one again."""
    engine.enqueue(workspace=ACME)
    ends: list[Callable[[], object]] = [
        lambda: engine.rpc("set_operator", p_user_id=OLGA, p_operator=False),
        lambda: engine.run("delete from queue.operators where user_id = %s", OLGA),
    ]
    for end in ends:
        olga.rpc("operator_open", p_request={"workspace_id": ACME, "reason": "ticket 7"})
        end()

        assert olga.rows("select id from public.jobs") == []
        assert olga.rpc("operator_session") == {"operator": False, "opened": []}
        if end is ends[0]:
            engine.rpc("set_operator", p_user_id=OLGA, p_note="back")
            named = engine.rpc("set_operator", p_user_id=OLGA)["operators"]
            notes = {one["user_id"]: one["note"] for one in named}
            assert notes[OLGA] == "back", "kept where none is given"
            assert olga.rpc("operator_session") == {"operator": True, "opened": []}


def test_workers_are_listed_with_what_they_hold_and_how_they_are(
    engine: Engine, olga: Engine
) -> None:
    """Alive, stale or gone, by one rule, with its slots."""
    engine.stop_clock()
    engine.lease(3, worker="busy")  # its run before, with nothing to do
    engine.enqueue_many(2)
    engine.lease(1, worker="busy")
    engine.lease(1, worker="lost", lease_seconds=1)
    engine.lease(1, worker="idle")
    engine.advance(30)

    states = {
        one["worker_id"]: (one["state"], one["busy_slots"], one["free_slots"])
        for one in olga.rpc("operator_workers")["workers"]
    }

    assert states == {"busy": ("alive", 1, 2), "lost": ("stale", 1, 0), "idle": ("alive", 0, 1)}
    for seconds, word in ((149, "alive"), (1, "stale"), (419, "stale"), (1, "gone")):
        engine.advance(seconds)
        again = olga.rpc("operator_workers")["workers"]
        assert {one["worker_id"]: one["state"] for one in again}["idle"] == word
    late = olga.rpc("operator_workers", p_minutes=1)["workers"]
    assert "idle" not in {one["worker_id"] for one in late}


def test_failures_of_all_workspaces_are_grouped(engine: Engine, olga: Engine) -> None:
    """One line for one fault, with how many workspaces it hit."""
    for workspace in (ACME, ACME, GLOBEX):
        engine.enqueue(workspace=workspace)
    for lease in engine.lease(3):
        engine.settle(lease, "failed", error={"type": "Boom", "message": "row 7 is bad"})
    engine.enqueue()
    engine.run_all()
    engine.rpc("pause_jobs", p_request={"kind": "workspace", "name": GLOBEX})

    [group] = olga.rpc("operator_failures")["groups"]

    assert (group["jobs"], group["workspaces"], group["error_message"]) == (
        3,
        2,
        "Boom: row 7 is bad",
    )
    counts = olga.rpc("operator_counts")["states"]
    assert counts["failed"] == 3
    by_name = {one["id"]: one["failed"] for one in olga.rpc("operator_workspaces")["workspaces"]}
    assert (by_name[ACME], by_name[GLOBEX]) == (2, 1)
    for seconds in (0, 60):
        engine.enqueue(delay_seconds=seconds)
    [found] = olga.rpc("operator_workspaces", p_search="ACME")["workspaces"]
    assert len(olga.rpc("operator_workspaces", p_limit=1)["workspaces"]) == 1
    assert [found[name] for name in ("id", "pending", "running", "paused")] == [ACME, 2, 0, False]


def test_old_actions_and_expired_access_are_removed(engine: Engine, olga: Engine) -> None:
    """An audit of 400 days by default, not for ever."""
    olga.rpc("operator_open", p_request={"workspace_id": ACME, "reason": "ticket 7"})
    engine.run("update queue.actions set at = at - interval '399 days'")
    engine.run("select queue.prune(100, queue.clock())")
    assert engine.one("select count(*) from queue.actions") == 1
    engine.run("update queue.actions set at = at - interval '2 days'")
    engine.run("update queue.operator_access set expires_at = queue.clock() - interval '1 hour'")
    engine.run("select queue.prune(100, queue.clock())")

    assert engine.one("select count(*) from queue.actions") == 0
    assert engine.one("select count(*) from queue.operator_access") == 0


def test_schedules_webhooks_alerts_and_logs_are_seen_over_all_workspaces(
    engine: Engine, olga: Engine
) -> None:
    """No one knows yet whose it is; what may be secret is left out, and reading logs is noted."""
    schedule = {"name": "nightly", "cron": "0 3 * * *", "job_type": "work", "payload": {"x": 1}}
    engine.rpc("put_schedule", p_workspace_id=ACME, p_schedule=schedule)
    own = {"name": "tidy", "scope": "system", "cron": "0 4 * * *"}
    engine.register("work", schedules=[own])
    hook = {"url": "https://hooks.example/secret-path", "sealed_secret": SEALED}
    engine.rpc("put_webhook", p_workspace_id=GLOBEX, p_webhook=hook)
    alert = {"name": "a", "metric": "unserved", "threshold": 1}
    engine.rpc("put_alert", p_workspace_id=GLOBEX, p_alert=alert)
    engine.enqueue()
    engine.report(
        engine.lease_one(), logs=[{"level": "info", "message": "hello", "metadata": {"card": 1}}]
    )

    schedules = olga.rpc("list_schedules")["schedules"]
    webhooks = olga.rpc("list_webhooks")["webhooks"]
    alerts = olga.rpc("list_alerts")["alerts"]
    lines = olga.rpc("search_logs")["lines"]

    assert {(one["name"], one["workspace_name"]) for one in schedules} == {
        ("nightly", "Acme"), ("code:tidy", "the system")
    }  # fmt: skip
    assert "payload" not in schedules[0]
    assert webhooks[0]["url"] == "https://hooks.example/…"
    assert [(one["name"], one["workspace_name"]) for one in alerts] == [("a", "Globex")]
    assert [(line["message"], line["metadata"]) for line in lines] == [("hello", {})]
    noted = engine.rows("select detail from queue.actions where action = 'list'")
    assert {"logs": True} in noted
    with engine.member(ADA) as ada, pytest.raises(psycopg.Error):
        ada.rpc("list_schedules")
    assert any(
        one["name"] == "code:tidy"
        for one in engine.rpc("get_job_type", p_job_type="work", p_workspace_id=ACME)["schedules"]
    )
