# ruff: noqa: E501 - queries and requests stay on one line
"""Lists and counts of jobs: what they show, to whom, and in which order."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal

STATUSES = ["pending", "processing", "waiting", "completed", "failed", "cancelled"]


def pages(engine: Engine, limit: int = 3, **filters: Any) -> list[str]:
    """The ids of a whole list, page by page."""
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


@pytest.mark.parametrize(
    "cursor",
    [
        {},
        {"id": ACME},
        {"created_at": "2026-01-01T00:00:00Z"},
        {"created_at": "2026-01-01T00:00:00Z", "id": None},
        ["x"],
    ],
)
def test_half_a_cursor_is_refused_by_its_name(engine: Engine, cursor: Any) -> None:
    """It would read the first page for ever."""
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("list_jobs", p_filter={"workspace_id": ACME}, p_cursor=cursor)

    assert refusal(refused.value) == ("PT400", "invalid_argument", "cursor")


def settle_some(engine: Engine) -> None:
    """Put a job into every state, some into several, in both workspaces."""
    engine.register("other")
    engine.enqueue(session_id="s1")
    for workspace, job_type, n in itertools.product([ACME, GLOBEX], ["work", "other"], range(9)):
        more: dict[str, Any] = {}
        engine.enqueue(
            workspace=workspace,
            job_type=job_type,
            session_id=f"s{n % 2}",
            queue="slow" if n % 3 else "default",
            payload={"n": n % 4},
            tags=[f"n{n % 4}"],
            **more,
        )
    outcomes = ["completed", "failed", "cancelled", "waiting", "retry", "completed"]
    for lease, outcome in zip(engine.lease(18), itertools.cycle(outcomes), strict=False):
        wait = {"kind": "sleep", "name": "nap", "until": "2199-01-01T00:00:00Z"}
        engine.settle(
            lease, outcome, wait=wait, error={"type": "E", "message": f"100% of {outcome}"}
        )
    engine.lease(3)


def test_a_list_shows_what_a_plain_query_would(engine: Engine) -> None:
    """Merged of several sources, page by page, it must be the same list for every filter."""
    settle_some(engine)
    dice = random.Random(7)
    by_status = dict(engine.rows("select status, count(*) from public.jobs group by 1"))
    assert set(by_status) == set(STATUSES)

    middle = {
        name: engine.one(f"select percentile_disc(0.5) within group (order by {name})::text from public.jobs")
        for name in ("created_at", "finished_at", "run_ms")
    }  # fmt: skip
    fingerprints = engine.rows("select distinct error_fingerprint from public.jobs where error_fingerprint is not null")  # fmt: skip
    conditions: dict[str, tuple[str, list[Any]]] = {
        "job_type": ("job_type = %s", ["work", "other"]),
        "queue": ("queue = %s", ["slow", "default"]),
        "session_id": ("session_id = %s", ["s0", "s1"]),
        "tag": ("%s = any (tags)", ["n0", "n1"]),
        "payload": ("payload @> %s::jsonb", ['{"n": 2}']),
        "error": ("error_message ilike '%%' || %s", ["of FAILED", "of retry"]),
        "error_type": ("error_data ->> 'type' = %s", ["E", "F"]),
        "error_fingerprint": ("error_fingerprint = %s", fingerprints),
        "worker_id": ("fence > 0 and %s = 'w1'", ["w1", "w2"]),
        "created_after": ("created_at >= %s", [middle["created_at"]]),
        "created_before": ("created_at < %s", [middle["created_at"]]),
        "finished_after": ("finished_at >= %s", [middle["finished_at"]]),
        "finished_before": ("finished_at < %s", [middle["finished_at"]]),
        "min_run_ms": ("run_ms >= %s::float", [middle["run_ms"]]),
        "max_run_ms": ("run_ms < %s::float", [middle["run_ms"]]),
    }

    with engine.member(ADA) as ada:
        for round in range(70):
            filters: dict[str, Any] = {}
            if dice.random() < 0.7:
                filters["workspace_id"] = ACME
            if dice.random() < 0.5:
                filters["status"] = dice.sample(STATUSES, dice.randint(1, 5))
            names = {list(conditions)[round % len(conditions)], dice.choice(list(conditions))}
            chosen = {name: dice.choice(conditions[name][1]) for name in sorted(names)}
            filters |= {n: json.loads(v) if n == "payload" else v for n, v in chosen.items()}
            plain = engine.rows(
                "select id::text from public.jobs where workspace_id = %s and status = any (%s)"
                + "".join(f" and {conditions[name][0]}" for name in chosen)
                + " order by created_at desc, id desc",
                ACME, filters.get("status", STATUSES), *chosen.values(),
            )  # fmt: skip
            assert pages(ada, **filters) == plain, filters


def test_a_list_spans_the_members_workspaces_and_no_others(engine: Engine) -> None:
    """Row level security is not asked here, so the function must ask itself."""
    settle_some(engine)
    engine.run(
        "insert into public.workspace_members (workspace_id, user_id, role) values (%s, %s, 'member')",
        GLOBEX,
        BOB,
    )
    everything = engine.rows("select id::text from public.jobs order by created_at desc, id desc")

    with engine.member(BOB) as bob:
        assert pages(bob) == everything
    with engine.member(EVE) as eve:
        assert pages(eve, session_id="s1") == engine.rows(
            "select id::text from public.jobs where session_id = 's1' and workspace_id = %s order by created_at desc, id desc",
            GLOBEX,
        )
        [theirs] = engine.rows(
            "select id::text from public.jobs where workspace_id = %s limit 1", ACME
        )
        assert theirs not in pages(eve, id_prefix=theirs)
        for function, arguments in (
            ("count_jobs", {"p_workspace_id": ACME}),
            ("list_jobs", {"p_filter": {"workspace_id": ACME}}),
            ("sort_jobs", {"p_filter": {"workspace_id": ACME}}),
            ("dead_letters", {"p_workspace_id": ACME}),
        ):
            with pytest.raises(psycopg.Error) as refused:
                eve.rpc(function, **arguments)
            assert refusal(refused.value)[:2] == ("PT404", "workspace_not_found")


def test_running_jobs_are_the_members_own_and_all_for_the_service(engine: Engine) -> None:
    """As a view of jobs: what is queued is not in it."""
    jobs = {workspace: engine.enqueue(workspace=workspace) for workspace in (ACME, GLOBEX)}
    engine.lease()
    engine.enqueue()
    running = "select id::text from public.running_jobs"

    assert set(engine.rows(running)) == set(jobs.values())
    assert len(engine.rows("select queue.live_ids()")) == 3
    with engine.member(ADA) as ada:
        assert ada.rows(running) == [jobs[ACME]]


def test_children_are_listed_at_every_age(engine: Engine) -> None:
    """Also those that ended long ago."""
    engine.enqueue()
    parent = engine.lease_one()
    children = engine.spawn(parent, "all", [{"job_type": "work", "payload": {}} for _ in range(4)])
    engine.run_all()

    assert pages(engine, parent_id=parent["job"]["id"]) == sorted(children, reverse=True)


def test_a_search_finds_parts_of_texts_and_both_ends_of_an_id(engine: Engine) -> None:
    """The console shows the last digits of an id, a log line perhaps the first."""
    settle_some(engine)
    job_id = engine.enqueue(idempotency_key="Order_77")

    def found(search: str) -> list[str]:
        return pages(engine, workspace_id=ACME, search=search)

    assert found("ORDER_7") == [job_id]
    assert found("order-7") == []
    assert set() < set(found("100% of f")) < set(found("100%"))
    assert found(job_id) == found(job_id[-8:]) == found(job_id[-8:].upper()) == [job_id]
    assert job_id in found(job_id[:8])
    assert pages(engine, id_prefix=job_id[:35]) == [job_id]
    assert job_id in pages(engine, id_prefix=job_id[:8])


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ({"statuses": ["pending"]}, "statuses"),
        ({"status": ["pending", "done"]}, "status"),
        ({"status": [None]}, "status"),
        ({"state": ["queued", "done"]}, "state"),
        ({"state": [None]}, "state"),
        ({"payload": ["n"]}, "payload"),
        ({"id_prefix": "12345"}, "id_prefix"),
        ({"id_prefix": "wxyzwxyz"}, "id_prefix"),
        ({"parent_id": "7"}, "filter"),
        ({"created_after": "soon"}, "filter"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(
    engine: Engine, filters: dict[str, Any], field: str
) -> None:
    """A typo must not match everything."""
    with engine.member(ADA) as ada, pytest.raises(psycopg.Error) as refused:
        ada.rpc("list_jobs", p_filter=filters)

    assert refusal(refused.value) == ("PT400", "invalid_argument", field)


def test_a_sparse_list_comes_in_slices_and_misses_nothing(engine: Engine) -> None:
    """A page may be empty and still have a next one."""
    engine.register("other")
    rare = engine.enqueue(job_type="other")
    engine.enqueue_many(900)

    page = engine.rpc("list_jobs", p_filter={"workspace_id": ACME, "job_type": "other"}, p_limit=2)
    assert page["jobs"] == []
    assert page["next"] is not None
    assert pages(engine, 2, workspace_id=ACME, job_type="other") == [rare]
    for function in ("list_jobs", "sort_jobs"):
        found = engine.rpc(function, p_filter={"workspace_id": ACME}, p_limit=999)
        assert len(found["jobs"]) == 200, "at most"


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_sparse_list_of_two_states_continues_where_the_first_was_cut(
    engine: Engine, scheduled: bool
) -> None:
    """The other was read down to older jobs, past what is left of this one."""
    later: dict[str, Any] = {"delay_seconds": 600}
    old, new = ({}, later) if scheduled else (later, {})
    engine.register("other")
    engine.enqueue_many(205, **old)
    rare = engine.enqueue(job_type="other", **new)
    engine.enqueue_many(205, **new)

    sought: Any = {"workspace_id": ACME, "state": ["queued", "scheduled"], "job_type": "other"}
    assert pages(engine, 1, **sought) == [rare]


def test_a_payload_is_searched_by_its_length_as_text(engine: Engine) -> None:
    """One letter a hundred thousand times takes little room, and long to read."""
    engine.enqueue(payload={"text": "y" * 100_000 + "rare"})
    short = engine.enqueue(payload={"text": "y" * 7_000 + "rare"})

    assert pages(engine, workspace_id=ACME, search="rare") == [short]
    sorted_page = engine.rpc("sort_jobs", p_filter={"workspace_id": ACME, "search": "rare"})
    assert [job["id"] for job in sorted_page["jobs"]] == [short]


#: A condition of which each job takes ten milliseconds.
SLOW = """
create or replace function queue.state_of(
  p_status text, p_attempts integer, p_next_retry_at timestamptz, p_scheduled_for timestamptz, p_now timestamptz
) returns text language plpgsql immutable set search_path = '' as $$
begin
  perform pg_sleep(0.01);
  return 'queued';
end $$
"""


def test_a_list_ends_in_time_amid_a_slice_and_misses_nothing(engine: Engine) -> None:
    """Else one slice of dear jobs is as long as all of them."""
    rare = engine.enqueue(payload={"text": "rare"})
    ids = engine.enqueue_many(60)
    engine.run(SLOW)

    sought: Any = {"workspace_id": ACME, "state": ["queued"], "search": "work"}
    page = engine.rpc("list_jobs", p_filter=sought)

    assert 1 <= len(page["jobs"]) <= 12
    assert page["next"] is not None
    assert pages(engine, **sought) == [*ids[::-1], rare]

    sought["search"] = "rare"
    page = engine.rpc("list_jobs", p_filter=sought)
    assert page["jobs"] == []
    assert page["next"] is not None
    assert pages(engine, **sought) == [rare]


def test_a_list_that_searches_no_payload_has_all_of_its_first_slice(engine: Engine) -> None:
    """However late the machine is: a live list that reads its top again misses no new job."""
    ids = engine.enqueue_many(60)
    engine.run(SLOW)

    page = engine.rpc("list_jobs", p_filter={"workspace_id": ACME, "state": ["queued"]})

    assert [job["id"] for job in page["jobs"]] == ids[::-1][:50]


def test_a_sorted_list_ends_in_time_with_a_page(engine: Engine) -> None:
    """And says that there are others, rather than running into the statement's time limit."""
    engine.enqueue_many(400)
    engine.run(SLOW)

    page = engine.rpc("sort_jobs", p_filter={"workspace_id": ACME, "state": ["queued"]}, p_limit=5)

    assert (len(page["jobs"]), page["cut"], page["more"]) == (5, True, True)


def test_counts_are_those_of_the_states(engine: Engine) -> None:
    """With and without a filter."""
    settle_some(engine)
    told = engine.rpc("count_jobs", p_workspace_id=ACME)
    count = "select status, count(*) from public.jobs where workspace_id = %s"

    assert told["at_least"] == []
    assert told["counts"] == dict.fromkeys(STATUSES, 0) | dict(
        engine.rows(f"{count} group by 1", ACME)
    )
    told = engine.rpc(
        "count_jobs", p_workspace_id=ACME, p_filter={"job_type": "other", "queue": "slow"}
    )
    plain = engine.rows(f"{count} and job_type = 'other' and queue = 'slow' group by 1", ACME)
    assert told["counts"] == dict.fromkeys(STATUSES, 0) | dict(plain)


def test_children_are_counted_in_their_own_workspace_alone(engine: Engine) -> None:
    """The id of another tenant's job tells nothing of what it is doing."""
    parent = engine.enqueue(workspace=GLOBEX)
    engine.spawn(engine.lease_one(), "s", [{"job_type": "work"}] * 2)

    for workspace, count in ((ACME, 0), (GLOBEX, 2)):
        told = engine.rpc("count_jobs", p_workspace_id=workspace, p_filter={"parent_id": parent})
        assert told["counts"] == dict.fromkeys(STATUSES, 0) | {"pending": count}
        assert told["states"]["queued"] == count


def test_dead_letters_are_grouped_in_their_own_workspace_alone(engine: Engine) -> None:
    """By what went wrong, the largest group first; another tenant's errors are its own."""
    errors = [(ACME, "B"), (ACME, "B"), (ACME, "A"), (GLOBEX, "A"), (GLOBEX, "C")]
    for workspace, kind in errors:
        engine.enqueue(workspace=workspace)
        engine.settle(engine.lease_one(), "failed", error={"type": kind, "message": "no"})

    with engine.member(ADA) as ada:
        found = ada.rpc("dead_letters", p_workspace_id=ACME)

    groups = [(group["error_message"], group["jobs"]) for group in found["groups"]]
    assert (groups, found["more"]) == ([("B: no", 2), ("A: no", 1)], False)


def test_counts_by_state_are_those_of_the_list(engine: Engine) -> None:
    """Both leave out jobs of internal types in every state, unless the filter names their type."""
    engine.stop_clock()
    nothing = engine.rpc("count_jobs", p_workspace_id=ACME)["states"]
    assert set(nothing.values()) == {0}
    settle_some(engine)
    engine.register("hidden", internal=True)
    wait = {"kind": "sleep", "name": "nap", "until": "2199-01-01T00:00:00Z"}
    error = {"type": "E", "message": "m"}
    outcomes = ("completed", "failed", "cancelled", "waiting")
    for workspace in (GLOBEX, ACME):
        for _ in range(6):
            engine.enqueue(workspace=workspace, job_type="hidden", queue="slow")
        hidden = engine.lease(5, job_types=["hidden"])
        for lease, outcome in zip(hidden, outcomes, strict=False):
            engine.settle(lease, outcome, wait=wait, error=error)
    state = "queue.state_of(j.status, j.attempts, j.next_retry_at, j.scheduled_for, queue.clock())"

    for filters in ({}, {"queue": "slow"}, {"job_type": "hidden"}, {"job_type": "work"}):
        counts = engine.rpc("count_jobs", p_workspace_id=ACME, p_filter=filters)["states"]
        listed = {"workspace_id": ACME, "internal": False, **filters}
        assert counts == {
            name: len(pages(engine, 50, state=[name], **listed)) for name in counts
        }, filters
        assert sum(counts.values()) > 0
    assert (
        engine.one(
            f"select count(distinct {state}) from public.jobs as j where j.job_type = 'hidden'"
        )
        == 6
    )


def test_a_list_shows_a_glimpse_and_get_job_the_whole(engine: Engine) -> None:
    """A page of 200 jobs stays far below the 6 MB that Lambda may answer."""
    payload = {
        "to": "ada",
        "n": 3,
        "deep": {"n": 1},
        "none": None,
        "body": "x" * 200_000,
        "more": 4,
    }
    job_id = engine.enqueue(payload)
    [lease] = engine.lease()
    engine.settle(lease, "failed", error={"type": "Boom", "message": "y" * 9000, "data": {"k": 1}})

    [listed] = engine.rpc("list_jobs", p_filter={"workspace_id": ACME})["jobs"]
    [sorted_] = engine.rpc("sort_jobs", p_filter={"workspace_id": ACME}, p_by="run_ms")["jobs"]
    whole = engine.rpc("get_job", p_job_id=job_id)

    assert listed == sorted_ | {"times": listed["times"]}
    assert listed["glimpse"] == f"n: 3, to: ada, body: {'x' * 80}"
    assert listed["error_message"] == "y" * 500
    assert set(whole) - set(listed) == {"payload", "result", "error_data"}
    assert (whole["payload"], whole["error_message"]) == (payload, "y" * 9000)


def test_a_waiting_job_in_a_list_says_what_it_asks_and_not_the_choices(engine: Engine) -> None:
    """They, and the ids that a job waits for, may be long."""
    engine.enqueue()
    [lease] = engine.lease()
    wait = {"kind": "ask", "name": "ask", "question": "q" * 400, "options": ["a", "b"]}
    engine.settle(lease, "waiting", wait={**wait, "default": "a"})

    [listed] = engine.rpc("list_jobs", p_filter={"workspace_id": ACME})["jobs"]

    assert listed["waiting_for"]["question"] == "q" * 300
    assert not {"options", "default"} & set(listed["waiting_for"])
