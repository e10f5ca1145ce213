"""People on call: what they see of all workspaces and may do, and that all is written down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

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


def test_an_operator_lists_the_jobs_of_every_workspace_without_their_payloads(
    engine: Engine, olga: Engine
) -> None:
    """Enough to see what is wrong and where; what is inside takes opening."""
    ours = engine.enqueue({"secret": 1}, workspace=ACME)
    theirs = engine.enqueue({"secret": 2}, workspace=GLOBEX)

    page = olga.rpc("operator_jobs")

    assert [job["id"] for job in page["jobs"]] == [theirs, ours]
    assert all(job["workspace_name"] and "payload" not in job for job in page["jobs"])
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
    assert olga.rpc("operator_jobs", p_filter={"search": "nothing like it"})["jobs"] == []


def test_looking_again_and_again_is_one_look(engine: Engine, olga: Engine) -> None:
    """A page that polls does not fill the audit."""
    for _ in range(5):
        olga.rpc("operator_jobs", p_filter={"status": ["failed"]})
    olga.rpc("operator_jobs")

    assert actions(olga) == [("list", True), ("list", True)]


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
    assert refusal(error.value)[1] == "job_not_found"
    engine.advance(3601)
    assert olga.rows("select id from public.jobs") == []


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
    assert refusal(error.value)[1] == "workspace_not_found"


def test_members_own_acts_are_written_down_too(engine: Engine) -> None:
    """Who cancelled it, who retried it, who paused the workspace and why."""
    job_id = engine.enqueue()
    with engine.member(BOB) as bob:
        bob.rpc("cancel_job", p_job_id=job_id)
        bob.rpc("retry_job", p_job_id=job_id)
    with engine.member(ADA) as ada:
        ada.rpc("pause_jobs", p_request={"kind": "workspace", "name": ACME, "reason": "a move"})
        ada.rpc("cancel_jobs", p_workspace_id=ACME, p_filter={"job_type": "work"})
        done = ada.rpc("list_actions", p_workspace_id=ACME)["actions"]

    assert [(one["action"], one["user_id"], one["jobs"]) for one in done] == [
        ("cancel", ADA, 1),
        ("pause", ADA, 0),
        ("retry", BOB, 1),
        ("cancel", BOB, 1),
    ]
    assert done[1]["detail"]["reason"] == "a move"
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
    olga.rpc("operator_open", p_request={"workspace_id": ACME})
    with pytest.raises(psycopg.Error) as error:
        olga.rpc("put_webhook", p_workspace_id=ACME, p_webhook={"url": "https://example.com/"})

    assert refusal(error.value)[1] == "forbidden"


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
def test_nobody_else_may(engine: Engine, function: str, arguments: dict[str, Any]) -> None:
    """Not even the manager of a workspace."""
    with engine.member(ADA) as ada, pytest.raises(psycopg.Error) as error:
        ada.rpc(function, **arguments)

    assert refusal(error.value)[:2] == ("PT403", "forbidden")


def test_an_operator_is_none_any_more_at_once(engine: Engine, olga: Engine) -> None:
    """What they had open closes with it."""
    engine.enqueue(workspace=ACME)
    olga.rpc("operator_open", p_request={"workspace_id": ACME})
    engine.rpc("set_operator", p_user_id=OLGA, p_operator=False)

    assert olga.rows("select id from public.jobs") == []
    assert olga.rpc("operator_session") == {"operator": False, "opened": []}


def test_workers_are_listed_with_what_they_hold_and_how_they_are(
    engine: Engine, olga: Engine
) -> None:
    """Busy, idle, ended, silent, lost: five words in place of one."""
    engine.enqueue_many(2)
    engine.lease(1, worker="busy")
    engine.lease(1, worker="lost", lease_seconds=1)
    engine.lease(1, worker="idle")
    engine.advance(30)

    states = {
        one["worker_id"]: (one["state"], one["busy_slots"])
        for one in olga.rpc("operator_workers")["workers"]
    }

    assert states == {"busy": ("busy", 1), "lost": ("lost", 1), "idle": ("idle", 0)}
    engine.advance(200)
    again = olga.rpc("operator_workers")["workers"]
    assert {one["worker_id"]: one["state"] for one in again}["idle"] == "silent"


def test_failures_of_all_workspaces_are_grouped(engine: Engine, olga: Engine) -> None:
    """One line for one fault, with how many workspaces it hit."""
    for workspace in (ACME, ACME, GLOBEX):
        engine.enqueue(workspace=workspace)
    for lease in engine.lease(3):
        engine.settle(lease, "failed", error={"type": "Boom", "message": "row 7 is bad"})

    [group] = olga.rpc("operator_failures")["groups"]

    assert (group["jobs"], group["workspaces"], group["error_message"]) == (3, 2, "row 7 is bad")
    counts = olga.rpc("operator_counts")["states"]
    assert counts["failed"] == 3
    by_name = {one["id"]: one["failed"] for one in olga.rpc("operator_workspaces")["workspaces"]}
    assert (by_name[ACME], by_name[GLOBEX]) == (2, 1)


def test_old_actions_and_expired_access_are_removed(engine: Engine, olga: Engine) -> None:
    """An audit of 400 days by default, not for ever."""
    olga.rpc("operator_open", p_request={"workspace_id": ACME})
    engine.run("update queue.actions set at = at - interval '401 days'")
    engine.run("update queue.operator_access set expires_at = queue.clock() - interval '1 hour'")
    engine.run("select queue.prune_actions(100, queue.clock())")

    assert engine.one("select count(*) from queue.actions") == 0
    assert engine.one("select count(*) from queue.operator_access") == 0
