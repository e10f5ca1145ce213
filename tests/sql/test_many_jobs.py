"""Cancelling and retrying all jobs that match, a batch a call."""

from __future__ import annotations

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, Engine, refusal


def test_a_cancel_is_repeated_until_nothing_matches(engine: Engine) -> None:
    """A running job is asked once, and is not found again."""
    ids = [engine.enqueue(tags=["june"]) for _ in range(5)]
    engine.lease(1)
    other = engine.enqueue()
    call = {"p_workspace_id": ACME, "p_filter": {"tag": "june"}, "p_limit": 2}

    answers = [engine.rpc("cancel_jobs", **call) for _ in range(3)]

    assert [(one["count"], one["more"]) for one in answers] == [(2, True), (2, True), (1, False)]
    assert engine.rpc("cancel_jobs", **call) == {"count": 0, "more": False}
    assert sorted(engine.status(job) for job in ids) == ["cancelled"] * 4 + ["processing"]
    assert engine.status(other) == "pending"


def test_failed_jobs_that_match_run_again_and_cancelled_ones_if_named(engine: Engine) -> None:
    engine.enqueue()
    engine.settle(engine.lease_one(), "failed", error={"type": "Boom", "message": "no"})
    cancelled = engine.enqueue()
    engine.rpc("cancel_job", p_job_id=cancelled)

    failed = engine.rpc("retry_jobs", p_workspace_id=ACME, p_filter={})
    named = engine.rpc("retry_jobs", p_workspace_id=ACME, p_filter={"state": ["cancelled"]})

    assert (failed, named) == ({"count": 1, "more": False},) * 2
    assert engine.one("select count(*) from public.jobs where status = 'pending'") == 2


@pytest.mark.parametrize(
    ("user", "given", "expected"),
    [
        (EVE, {"tag": "a"}, ("PT404", "workspace_not_found")),
        (BOB, {"tag": "a"}, ("PT403", "forbidden")),
        (ADA, {}, ("PT422", "validation_failed")),
        (ADA, {"state": ["completed"]}, ("PT400", "invalid_argument")),
        (ADA, {"tga": "a"}, ("PT400", "invalid_argument")),
    ],
)
def test_a_cancel_is_a_managers_and_names_something(
    engine: Engine, user: str, given: dict[str, object], expected: tuple[str, str]
) -> None:
    with engine.member(user) as caller, pytest.raises(psycopg.Error) as refused:
        caller.rpc("cancel_jobs", p_workspace_id=ACME, p_filter=given)

    assert refusal(refused.value)[:2] == expected
