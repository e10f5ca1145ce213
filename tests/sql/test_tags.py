# ruff: noqa: E501 - queries and requests stay on one line
"""Tags: part of a job in every way in, found at any age, bounded in what a search reads."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, GLOBEX, Engine, handle, refusal


def tagged(engine: Engine, tag: str, workspace: str = ACME) -> list[str]:
    """The ids of the jobs with a tag."""
    page = engine.rpc("list_jobs", p_filter={"workspace_id": workspace, "tag": tag})
    return [job["id"] for job in page["jobs"]]


def test_every_way_in_takes_tags(engine: Engine) -> None:
    """enqueue_job, bulk, a plain insert of a service and of a member, a processor's child."""
    one = engine.enqueue(tags=["blue"])
    many = engine.rpc(
        "enqueue_jobs", p_workspace_id=ACME, p_jobs=[{"job_type": "work", "tags": ["blue", "x"]}]
    )["jobs"][0]["job"]["id"]
    plain = engine.one(
        "insert into public.jobs (workspace_id, job_type, status, tags) values (%s, 'work', 'pending', '{blue}') returning id::text",
        ACME,
    )
    with engine.member(ADA) as ada:
        own = ada.one(
            "insert into public.jobs (workspace_id, job_type, status, tags) values (%s, 'work', 'pending', '{blue}') returning id::text",
            ACME,
        )
    lease = engine.lease()[0]
    [child] = engine.spawn(lease, "all", [{"job_type": "work", "payload": {}, "tags": ["blue"]}])

    assert set(tagged(engine, "blue")) == {one, many, plain, own, child}
    assert tagged(engine, "x") == [many]
    assert tagged(engine, "blue", GLOBEX) == []


def test_a_processor_tags_its_job_while_it_runs(engine: Engine) -> None:
    """ctx.tag travels with a report or with the settle."""
    job_id = engine.enqueue(tags=["blue", "green"])
    lease = engine.lease_one()
    other = engine.enqueue()
    engine.report(lease, tags=["red", "blue", "amber"])
    assert engine.job(job_id)["tags"] == ["blue", "green", "red", "amber"]
    longest, numbers = "x" * 100, [str(n) for n in range(20)]
    tags = ["", "a\nb", "x" * 101, longest, *numbers]
    engine.settle_all([{**handle(lease), "outcome": "completed", "tags": tags}])

    assert engine.job(job_id)["tags"] == ["blue", "green", "red", "amber", longest, *numbers[:15]]
    assert tagged(engine, longest) == tagged(engine, "red") == [job_id]
    assert engine.job(other)["tags"] == []


def test_a_stale_lease_sets_no_tag(engine: Engine) -> None:
    """Nothing that a worker without the lease sends is stored."""
    job_id = engine.enqueue()
    lease = engine.lease_one()
    engine.advance(3600)
    engine.lease_call(0)
    engine.report(lease, tags=["late"])
    engine.settle(lease, tags=["late"])

    assert engine.job(job_id)["tags"] == []


@pytest.mark.parametrize(
    "tags", [["x" * 101], [""], ["a\nb"], [str(n) for n in range(21)], "blue", [None]]
)
def test_what_is_no_tag_is_refused_by_its_name(engine: Engine, tags: Any) -> None:
    """By enqueue_job as by a plain insert."""
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc(
            "enqueue_job",
            p_workspace_id=ACME,
            p_job_type="work",
            p_payload={},
            p_options={"tags": tags},
        )
    assert refusal(refused.value)[:2] == ("PT400", "invalid_argument")
    if isinstance(tags, list):
        with pytest.raises(psycopg.Error) as refused:
            engine.run(
                "insert into public.jobs (workspace_id, job_type, status, tags) values (%s, 'work', 'pending', %s)",
                ACME,
                tags,
            )
        assert refusal(refused.value) == ("PT400", "invalid_argument", "tags")


def test_fields_of_the_payload_become_tags(engine: Engine) -> None:
    """What a type is tagged by is found at any age, whichever way it came in."""
    engine.register("bill", tagged_by=["customer", "period.month"])
    payload = {"customer": 42, "period": {"month": "2026-01"}}
    plain = engine.enqueue(payload, job_type="bill")
    given = engine.enqueue(payload, job_type="bill", tags=["blue"])
    row = engine.one(
        "insert into public.jobs (workspace_id, job_type, status, payload) values (%s, 'bill', 'pending', '{\"customer\": 42}') returning id::text",
        ACME,
    )
    engine.enqueue({"customer": 7, "period": {}}, job_type="bill")

    assert set(tagged(engine, "customer:42")) == {plain, given, row}
    assert set(tagged(engine, "period.month:2026-01")) == {plain, given}
    assert set(engine.job(given)["tags"]) == {"blue", "customer:42", "period.month:2026-01"}


def test_given_tags_go_before_those_of_the_payload(engine: Engine) -> None:
    """There is room for 20 of 100 characters, and a line feed is part of none."""
    engine.register("bill", tagged_by=["a", "b", "c"])
    given = [f"x{n}" for n in range(18, 0, -1)]
    payload = {"a": "1\n2", "b": "y" * 99, "c": True}

    job_id = engine.enqueue(payload, job_type="bill", tags=given)
    full = engine.enqueue(payload, job_type="bill", tags=["c:true", "x" * 100, *given])

    assert engine.job(job_id)["tags"] == [*given, "b:" + "y" * 98, "c:true"]
    assert engine.job(full)["tags"] == ["c:true", "x" * 100, *given]


def test_tags_go_with_their_job(engine: Engine) -> None:
    """Nothing is left behind for the year to come."""
    job_id = engine.enqueue(tags=["blue", "red"])
    engine.run("delete from public.jobs where id = %s", job_id)

    assert engine.one("select count(*) from queue.job_tags") == 0


def test_a_job_without_tags_writes_nothing(engine: Engine) -> None:
    """Those who do not use it do not pay for it."""
    engine.enqueue_many(5)

    assert engine.one("select count(*) from queue.job_tags") == 0


def test_a_replaced_job_takes_the_newer_tags(engine: Engine) -> None:
    """A debounced job is found by what it will run with."""
    engine.stop_clock()  # the other differs by its id alone
    engine.register("bill", tagged_by=["customer"])
    other = engine.enqueue({"customer": 1}, job_type="bill")
    first = engine.enqueue(
        {"customer": 1}, job_type="bill", unique={"key": "k"}, debounce_seconds=60
    )
    second = engine.enqueue(
        {"customer": 2}, job_type="bill", unique={"key": "k"}, debounce_seconds=60
    )

    assert first == second
    assert tagged(engine, "customer:2") == [first]
    assert tagged(engine, "customer:1") == [other]
    assert engine.one("select count(*) from queue.job_tags") == 2


def test_another_payload_takes_the_tags_of_the_first_away(engine: Engine) -> None:
    """Whether the job is edited or replayed; those that it was given stay."""
    engine.register("bill", tagged_by=["customer"])
    job_id = engine.enqueue({"customer": 1}, job_type="bill", tags=["blue"], delay_seconds=60)
    edited = engine.rpc("edit_job", p_job_id=job_id, p_changes={"payload": {"customer": 2}})
    engine.advance(61)
    engine.run_all()
    request = {"payload": {"customer": 3}}
    replay = engine.rpc("replay_job", p_job_id=job_id, p_request=request)["job"]

    assert edited["tags"] == ["blue", "customer:2"]
    assert replay["tags"] == ["blue", "customer:3"]
    assert tagged(engine, "customer:1") == []


def test_a_payload_is_searched_by_field_and_by_text(engine: Engine) -> None:
    """In bounded slices, newest first."""
    engine.enqueue({"month": "2026-02"})
    # the newest, which a slice looks at however late it is
    job_id = engine.enqueue({"month": "2026-01", "who": {"name": "Ada n777"}})

    for filters in (
        {"payload": {"month": "2026-01"}},
        {"payload": {"who": {"name": "Ada n777"}}},
        {"search": "N777"},
    ):
        page = engine.rpc("list_jobs", p_filter={"workspace_id": ACME, **filters})
        assert [job["id"] for job in page["jobs"]] == [job_id], filters


def test_jobs_are_found_by_worker_version_and_error(engine: Engine) -> None:
    """Which jobs did the broken release touch?"""
    good, bad = engine.enqueue(), engine.enqueue()
    leases = {
        lease["job"]["id"]: lease
        for lease in [
            engine.lease_one(worker="w1", version="1.0", limit=1),
            engine.lease_one(worker="w2", version="1.1", limit=1),
        ]
    }
    engine.settle(leases[good], "completed")
    engine.settle(leases[bad], "failed", error={"type": "KeyError", "message": "no 'rate' of 17"})

    def found(**filters: Any) -> list[str]:
        return [
            job["id"]
            for job in engine.rpc("list_jobs", p_filter={"workspace_id": ACME, **filters})["jobs"]
        ]

    assert found(worker_id="w1") == [good]
    assert found(version="1.1") == [bad]
    assert found(version="1.1", worker_id="w1") == []
    assert found(error="'RATE'") == found(error_type="KeyError") == [bad]
    assert found(error_fingerprint=engine.job(bad)["error_fingerprint"]) == [bad]
    assert found(finished_after="2199-01-01T00:00:00Z") == []


def test_log_lines_are_searched_over_jobs(engine: Engine) -> None:
    """Newest first, in pages, of one workspace."""
    job_id = engine.enqueue()
    other = engine.enqueue(workspace=GLOBEX)
    leases = {lease["job"]["id"]: lease for lease in engine.lease(2)}
    lines = [
        {"level": ("error", "info", "warning")[n % 3], "message": f"Line {n}", "metadata": {"n": n}}
        for n in range(6)
    ]
    engine.report(leases[job_id], logs=lines)
    engine.report(leases[other], logs=[{"level": "error", "message": "Line of another"}])

    page = engine.rpc("search_logs", p_workspace_id=ACME, p_filter={"search": "line"}, p_limit=4)
    rest = engine.rpc(
        "search_logs",
        p_workspace_id=ACME,
        p_filter={"search": "line"},
        p_limit=4,
        p_before=page["next"],
    )
    assert [line["message"] for line in page["lines"] + rest["lines"]] == [
        f"Line {n}" for n in range(5, -1, -1)
    ]
    assert rest["next"] is None
    errors = engine.rpc(
        "search_logs", p_workspace_id=ACME, p_filter={"level": "error", "job_type": "work"}
    )
    assert [line["log_level"] for line in errors["lines"]] == ["error"] * 2
    at = errors["lines"][0]["created_at"]
    counts: list[tuple[dict[str, str], int]] = [
        ({"level": "warning"}, 4), ({"level": "info"}, 6), ({"job_id": job_id}, 6), ({"job_id": other}, 0),
        ({"since": at}, 6), ({"since": "2199-01-01"}, 0), ({"until": at}, 0), ({"until": "2199-01-01"}, 6),
    ]  # fmt: skip
    for filters, count in counts:
        found = engine.rpc("search_logs", p_workspace_id=ACME, p_filter=filters)
        assert len(found["lines"]) == count, filters
    beside = engine.rpc("search_logs", p_workspace_id=ACME, p_filter={"search": '"N": 3'})
    assert [line["metadata"] for line in beside["lines"]] == [{"n": 3}]
    with engine.member(ADA) as ada, pytest.raises(psycopg.Error) as refused:
        ada.rpc("search_logs", p_workspace_id=GLOBEX)
    assert refusal(refused.value)[:2] == ("PT404", "workspace_not_found")
