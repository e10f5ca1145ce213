# ruff: noqa: E501 - queries and requests stay on one line
"""Steps of a job: read in pages, whole and in order, by the lease's holder and the job's people."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.engine import ACME, ADA, EVE, GLOBEX, Engine, handle, refusal


def test_gathered_results_are_read_in_pages(engine: Engine) -> None:
    """1,200 children of 2 kB each: copied in slices, told in pages, complete and in order."""
    engine.enqueue()
    parent = engine.lease_one()
    children = [
        child
        for n in range(2)
        for child in engine.spawn(parent, f"s{n}", [{"job_type": "work"}] * 600)
    ]
    engine.settle(parent, "waiting", wait={"kind": "children", "name": "all", "job_ids": children})
    while leases := engine.lease(600):
        if leases[0]["job"]["id"] == parent["job"]["id"]:
            break
        engine.settle_all(
            [
                {**handle(lease), "outcome": "completed", "result": lease["job"]["id"] + "x" * 2000}
                for lease in leases
            ]
        )
    [again] = leases

    assert again["steps"] is None
    gathered: list[Any] = []
    after, pages = None, 0
    while pages == 0 or after is not None:
        page = engine.rpc("read_steps", p_request={**handle(again), "after": after})
        assert len(json.dumps(page)) < 1_300_000
        gathered += [line["value"] for line in page["lines"] if line["nth"] > 0]
        after = page["next"]
        pages += 1
    assert pages > 1
    assert [child["id"] for child in gathered] == children
    assert {child["result"][:36] == child["id"] for child in gathered} == {True}


def test_pages_of_steps_are_the_whole_in_order(engine: Engine) -> None:
    """However short a page is, and whichever other job has steps and events of these names."""
    for workspace, payload in ((GLOBEX, {"n": 2}), (ACME, {"text": "x" * 500})):
        engine.rpc("emit_event", p_workspace_id=workspace, p_name="e", p_payload=payload)
        engine.rpc("emit_event", p_workspace_id=workspace, p_name="f", p_payload={})
        job_id = engine.enqueue(workspace=workspace)
        [lease] = engine.lease()
        steps = [{"name": "b", "result": workspace}, {"name": "d", "result": None}]
        engine.report(lease, steps=steps)
        for name, event in (("a", "e"), ("c", None)):
            engine.run(
                "insert into queue.steps (job_id, name, result, created_at, workspace_id, event_name)"
                " values (%s, %s, '{\"value\": {\"children\": []}}', queue.clock(), %s, %s)",
                job_id, name, workspace, event,
            )  # fmt: skip
        engine.run(
            "insert into queue.gathered (job_id, name, nth, child_id, status, result)"
            " select %s, 'c', n, %s, 'completed', to_jsonb(n) from generate_series(1, 2) as n",
            job_id, workspace,
        )  # fmt: skip
    child = {"id": ACME, "status": "completed", "error_message": None}
    page = "select to_jsonb(p) from queue.step_page(%s, %s, %s) as p"
    lines = "select bytes from queue.step_lines(%s, null, null, 1001)"

    whole = engine.one(page, job_id, None, 9999)
    places = [("a", 0), ("b", 0), ("c", 0), ("c", 1), ("c", 2), ("d", 0)]
    assert [(line["name"], line["nth"]) for line in whole["lines"]] == places
    sizes: list[int] = []
    found, after = [], None
    while (not sizes or after) and len(sizes) < 9:
        short = engine.one(page, job_id, Jsonb(after) if after else None, 1)
        found += short["lines"]
        sizes.append(short["bytes"])
        after = short["next"]
    assert (found, len(sizes), sum(sizes)) == (whole["lines"], 6, whole["bytes"])
    assert sizes[0] > 500 > sizes[1]
    assert len(engine.one(page, job_id, None, sizes[0])["lines"]) == 1
    assert engine.one("select queue.steps_of(%s)", job_id) == {
        "a": {"event": payload},
        "b": ACME,
        "c": {"children": [{**child, "result": 1}, {**child, "result": 2}]},
        "d": None,
    }
    shown = engine.rpc("job_steps", p_job_id=job_id)
    assert (len(shown["steps"]), shown["next"]) == (4, None)
    pad = "update queue.steps set result = to_jsonb(repeat('x', %s)) where name = 'b'"
    engine.run(pad, 9000)
    more = 16_000 - sum(engine.rows(lines, job_id))
    for length, fits in ((9000 + more, True), (9001 + more, False)):
        engine.run(pad, length)
        assert (engine.one("select queue.steps_of(%s)", job_id) is not None) == fits
    engine.run(
        "insert into queue.gathered (job_id, name, nth, child_id, status)"
        " select %s, 'c', n, %s, 'completed' from generate_series(3, 1002) as n", job_id, ACME,
    )  # fmt: skip
    full = engine.one(page, job_id, None, 999_999)
    rest = engine.one(page, job_id, Jsonb(full["next"]), 999_999)
    assert (len(full["lines"]), len(rest["lines"]), rest["next"]) == (1000, 6, None)
    engine.run("update queue.gathered set name = 'a', child_id = %s where nth = 2", GLOBEX)
    engine.run("update queue.gathered set nth = 1 where nth = 2")
    line = "select queue.step_line(%s, %s, 1) #>> '{value,id}'"
    assert [engine.one(line, job_id, name) for name in "ac"] == [GLOBEX, ACME]


def test_the_first_result_of_a_step_is_kept(engine: Engine) -> None:
    """A report that is repeated, or of an attempt that did the step again, changes nothing."""
    job_id = engine.enqueue()
    lease = engine.lease_one()
    for result in (1, 2):
        engine.report(lease, steps=[{"name": "a", "result": result}])

    assert engine.step(job_id, "a") == 1


def test_steps_are_read_by_the_leases_holder_alone(engine: Engine) -> None:
    """A zombie learns that it is one."""
    engine.enqueue()
    lease = engine.lease_one()

    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("read_steps", p_request={**handle(lease), "fence": lease["fence"] + 1})

    assert refusal(refused.value)[:2] == ("PT409", "lease_lost")


def test_people_read_the_steps_of_their_own_jobs(engine: Engine) -> None:
    """A step's result is as much the tenant's as the job's."""
    job_id = engine.enqueue()
    steps = [{"name": "b", "result": 2, "took_ms": 1500}, {"name": "a", "result": 1}]
    engine.report(engine.lease_one(), steps=steps)
    engine.enqueue()
    asked = {"kind": "ask", "name": "q", "question": "?"}  # by another job
    engine.settle(engine.lease_one(), "waiting", wait=asked)

    with engine.member(ADA) as ada:
        shown = ada.rpc("job_steps", p_job_id=job_id, p_after=Jsonb(None))
    first, step = shown["steps"]
    assert (first["name"], round(first["took_ms"]), shown["waiting_for"]) == ("b", 1500, None)
    with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as refused:
        eve.rpc("job_steps", p_job_id=job_id)

    assert (step["name"], step["kind"], step["result"]) == ("a", "step", 1)
    assert refusal(refused.value) == ("PT404", "job_not_found", job_id)
