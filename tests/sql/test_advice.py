"""What to do about a job: the remedy is that of what happened, and the failed check comes first."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.engine import ACME, ADA, BOB, GLOBEX, Engine

FRAMES = {"frames": [{"file": "jobs/rates.py", "line": 41, "own": True}]}


def explain(engine: Engine, job_id: str) -> dict[str, Any]:
    """As a manager of its workspace, who may read tracebacks."""
    with engine.member(ADA) as ada:
        found: dict[str, Any] = ada.rpc("explain_job", p_job_id=job_id)
    return found


def failed(engine: Engine, *, attempts: int = 1, of: str = "work/" + ACME, **error: Any) -> str:
    """A job whose attempt ended with this error."""
    job_type, workspace = of.split("/")
    job_id = engine.enqueue(workspace=workspace, job_type=job_type, max_attempts=attempts)
    problem = {"type": "ValueError", "message": "no", "traceback": FRAMES, **error}
    engine.settle(engine.lease_one(version="v7"), "retry", error=problem, retry_after_seconds=45)
    return job_id


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({}, "Correct jobs/rates.py:41, deploy"),
        ({"type": "httpx.HTTPStatusError", "status": 429}, "asked to slow down (429)"),
        ({"type": "httpx.HTTPStatusError", "status": 401}, "credentials (401): check the key"),
        ({"type": "httpx.HTTPStatusError", "status": 403}, "credentials (403): check the key"),
        ({"type": "httpx.HTTPStatusError", "status": 503}, "failed (503). When it is back, retry"),
        ({"type": "httpx.HTTPStatusError", "status": 408}, "failed (408). When it is back, retry"),
        ({"type": "httpx.HTTPStatusError", "status": 422}, "refused the request (422)"),
        ({"type": "httpx.ConnectError"}, "did not answer"),
        ({"type": "aiohttp.client_exceptions.ServerDisconnectedError"}, "did not answer"),
        ({"type": "psycopg.OperationalError"}, "did not answer"),
        (
            {"type": "httpx.ConnectError", "message": "[Errno -2] Name or service not known"},
            "resolve",
        ),
        ({"type": "SSLError", "message": "[SSL: CERTIFICATE_VERIFY_FAILED]"}, "certificate"),
        ({"type": "WorkerLost", "message": "was ended by SIGSEGV"}, "crashed at jobs/rates.py:41"),
        ({"type": "WorkerLost", "message": "ended with exit code 7"}, "os._exit"),
        ({"type": "OSError", "errno": "ENOSPC"}, "The disk of its worker is full (ENOSPC)"),
        ({"type": "OSError", "errno": "ENOMEM"}, "ran out of memory"),
        ({"type": "MemoryError"}, "more memory, then retry: finished"),
        ({"type": "OSError", "errno": "EMFILE"}, "too many open files"),
        ({"type": "RecursionError"}, "calls itself without an end at jobs/rates.py:41"),
        ({"type": "AttemptTimeout"}, "It was at jobs/rates.py:41. Give the type a longer timeout"),
        ({"type": "PayloadRejected"}, "Duplicate the job"),
        ({"type": "ResultRejected"}, "return what JSON can hold"),
        ({"type": "DeadlineReached"}, "Split the work into steps"),
        ({"type": "x.ChildrenFailed"}, "A child job failed"),
    ],
)
def test_a_failure_has_the_remedy_of_its_cause(
    engine: Engine, error: dict[str, Any], words: str
) -> None:
    """The line that ran is not to blame for a full disk, or for what a vendor answers."""
    told = explain(engine, failed(engine, **error))

    assert words in told["remedy"]
    assert told["command"].startswith("minutehand retry ")


def test_what_is_retried_says_until_when_it_was_asked_to_wait(engine: Engine) -> None:
    """Without an instant people wait in front of the page."""
    job_id = failed(engine, attempts=3, type="httpx.HTTPStatusError", status=429)

    told = explain(engine, job_id)

    due = engine.one("select queue.utc(next_retry_at) from public.jobs where id = %s", job_id)
    assert f"retried automatically at {due}" in told["remedy"]
    assert (told["history"]["jobs"], told["history"]["workspaces"]) == (1, 1)  # itself
    other = explain(engine, failed(engine, attempts=3))
    assert "a correction of jobs/rates.py:41" in other["remedy"]


def test_the_failed_check_comes_first_with_its_command(engine: Engine) -> None:
    """What doctor would say of this one job."""
    job_id = engine.enqueue()
    engine.lease_call(0, job_types=["other"])
    engine.rpc("pause_jobs", p_request={"kind": "job_type", "name": "work", "by": "ops"})

    checks = explain(engine, job_id)["checks"]

    assert [(each["check"], each["verdict"]) for each in checks] == [
        ("workers", "fail"), ("pauses", "warn"), ("limits", "pass"), ("storage", "pass")
    ]  # fmt: skip
    assert checks[0]["command"] == "minutehand types work"
    assert checks[1]["command"] == "minutehand resume type work"
    with engine.member(ADA) as ada:
        ada.run("set default_transaction_read_only = on")
        full = ada.rpc("explain_job", p_job_id=job_id)["checks"][1]
    assert (full["check"], full["verdict"]) == ("storage", "fail")
    assert full["detail"] == "The database is read-only: its plan is full."


@pytest.mark.parametrize(
    ("reason", "policy", "command"),
    [
        ("type_limit", {"max_concurrency": 1}, "ls --state running --type work"),
        ("workspace_limit", {}, "ls --state running"),
        ("rate_limited", {"rate_limit": {"limit": 1, "per_seconds": 600}}, "types work"),
    ],
)
def test_a_job_held_by_a_limit_leads_to_what_fills_it(
    engine: Engine, reason: str, policy: dict[str, Any], command: str
) -> None:
    """One stuck job in the only slot is the cause; the limit itself is as it should be."""
    engine.register(**policy)
    if not policy:
        engine.rpc("set_workspace_limits", p_workspace_id=ACME, p_limits={"max_running": 1})
    held = [engine.enqueue(), engine.enqueue()][1]
    engine.lease_one()

    told = explain(engine, held)

    assert (told["reason"], told["command"]) == (reason, f"minutehand {command}")
    assert told["remedy"].startswith("It starts ")


def test_a_worker_that_stopped_answering_is_the_first_check_of_its_job(engine: Engine) -> None:
    """Its lease expired, and no one has taken it back yet."""
    engine.stop_clock()
    job_id = engine.enqueue()
    engine.lease_one(lease_seconds=10)
    engine.advance(10)

    told = explain(engine, job_id)

    assert told["checks"][0] == {
        "check": "lease", "verdict": "fail", "command": "minutehand doctor --only schedule",
        "detail": "Worker w1 stopped answering; its lease expired.",
    }  # fmt: skip
    engine.lease_call(0)
    assert "attempts" in {each["check"] for each in explain(engine, job_id)["checks"]}


def test_a_long_error_is_one_line_of_the_sentence(engine: Engine) -> None:
    """The page and `show` have it whole; here it would hide what to do."""
    told = explain(engine, failed(engine, message="first\n" + "next line\n" * 99))

    assert "\n" not in told["sentence"]
    assert ": ValueError: first next line" in told["sentence"]
    assert told["sentence"].endswith("…")
    assert len(told["sentence"]) < 400


@pytest.mark.parametrize("own", ["x.ChildrenFailed", "ValueError"])
def test_a_failed_parent_leads_to_the_child_that_failed_last(engine: Engine, own: str) -> None:
    """The parent's own line only waits for it, unless it failed by itself."""
    parent_id = engine.enqueue()
    parent = engine.lease_one()
    engine.spawn(parent, "c", [{"job_type": "work", "payload": {}}] * 3)
    children = engine.lease(3)
    for number, lease in enumerate(children[:2]):
        at = {"frames": [{"file": "jobs/child.py", "line": number, "own": True}]}
        error = {"type": "ValueError", "message": "no", "traceback": at}
        engine.settle(lease, "failed", error=error)
    engine.settle(children[2])
    engine.settle(parent, "failed", error={"type": own, "message": "no"})

    told = explain(engine, parent_id)

    led = own == "x.ChildrenFailed"
    assert told["child_id"] == (children[1]["job"]["id"] if led else None)
    assert ("jobs/child.py:1" in told["remedy"]) == led


def test_a_member_is_not_led_to_a_line_of_code(engine: Engine) -> None:
    """Tracebacks are for managers and operators; a parent's advice has its child's in it."""
    parent_id = engine.enqueue()
    parent = engine.lease_one()
    [child_id] = engine.spawn(parent, "c", [{"job_type": "work", "payload": {}}])
    for lease, kind in ((engine.lease_one(), "ValueError"), (parent, "x.ChildrenFailed")):
        engine.settle(lease, "failed", error={"type": kind, "message": "no", "traceback": FRAMES})

    with engine.member(BOB) as bob:
        told = [bob.rpc("explain_job", p_job_id=one)["remedy"] for one in (parent_id, child_id)]

    assert not [remedy for remedy in told if not remedy or "rates.py" in remedy]
    assert "rates.py:41" in explain(engine, parent_id)["remedy"]


def test_who_may_resume_a_workspace_is_advised_to(engine: Engine) -> None:
    """And a member whom to ask."""
    job_id = engine.enqueue()
    engine.lease_call(0)
    engine.rpc("pause_jobs", p_request={"kind": "workspace", "name": ACME})

    with engine.member(BOB) as bob:
        member = bob.rpc("explain_job", p_job_id=job_id)
    manager = explain(engine, job_id)

    assert (member["reason"], manager["reason"]) == ("workspace_paused",) * 2
    assert member["remedy"] == "A manager resumes the workspace."
    assert manager["remedy"].startswith("Resume the workspace once")


def test_what_runs_or_went_well_needs_nothing(engine: Engine) -> None:
    """Advice on every page would be read on none."""
    job_id = engine.enqueue()
    lease = engine.lease_one()
    running = explain(engine, job_id)
    engine.settle(lease)
    completed = explain(engine, job_id)

    assert (running["remedy"], running["command"], running["history"]) == (None, None, None)
    assert {each["verdict"] for each in running["checks"]} == {"pass"}
    assert "limits" not in {each["check"] for each in running["checks"]}
    assert (completed["remedy"], completed["command"], completed["checks"]) == (None, None, [])


def test_since_when_and_for_whom(engine: Engine) -> None:
    """A member reads of their workspace; the service of all."""
    engine.register("other")
    succeeded = [engine.enqueue(job_type=name) for name in ("work", "other")]
    for name in ("work", "other"):
        engine.settle(engine.lease_one(job_types=[name]))
    theirs = engine.enqueue(workspace=GLOBEX)
    engine.settle(engine.lease_one())
    failed(engine, of=f"other/{ACME}")
    failed(engine, type="KeyError")
    ids = [failed(engine), failed(engine), failed(engine, of=f"work/{GLOBEX}")]
    engine.rpc("cancel_job", p_job_id=failed(engine, attempts=3))  # which has not failed

    own = explain(engine, ids[0])["history"]
    whole = engine.rpc("explain_job", p_job_id=ids[0])["history"]

    assert (own["jobs"], own["workspaces"], own["version"]) == (2, 1, "v7")
    assert (whole["jobs"], whole["workspaces"]) == (3, 2)
    assert own["first_seen_at"] is not None
    assert own["last_success_at"] == engine.job(succeeded[0])["finished_at"]
    assert whole["last_success_at"] == engine.job(theirs)["finished_at"]


def test_every_list_names_the_type_of_the_exception(engine: Engine) -> None:
    """'XAU' alone says nothing."""
    job_id = failed(engine, type="KeyError", message="'XAU'")

    with engine.member(ADA) as ada:
        listed = ada.rpc("list_jobs", p_filter={"workspace_id": ACME})["jobs"][0]["error"]
        page = ada.rpc("get_job", p_job_id=job_id)["error"]
        groups = ada.rpc("dead_letters", p_workspace_id=ACME)["groups"][0]["error_message"]
        attempt = ada.rpc("job_attempts", p_job_id=job_id)["attempts"][0]["error"]
        told = ada.rpc("explain_job", p_job_id=job_id)["sentence"]

    assert {listed, page, groups, attempt} == {"KeyError: 'XAU'"}
    assert told.endswith("on its only attempt: KeyError: 'XAU'")
