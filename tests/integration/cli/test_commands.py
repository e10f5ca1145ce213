"""The verbs of `minutehand` against the running stack, in both of their forms."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import jwt
import pytest
from typer.testing import CliRunner

from minutehand.terminal.connection import CommandFailed, Connection
from tests.e2e.console.worker import HandWorker
from tests.support.command import Run, app
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.usefixtures("acme_key")


@pytest.fixture
def account(stack: RunningStack) -> str:
    """An account of Ada's workspace."""
    with stack.connect() as connection:
        row = connection.execute(
            "insert into public.accounts (workspace_id, name, domain)"
            " values (%s, %s, %s) returning id",
            (stack.demo_workspace_id, "Command", f"{uuid.uuid4().hex}.example"),
        ).fetchone()
    assert row is not None
    return str(row[0])


def enqueued(run: Run, account: str, *more: str) -> dict[str, Any]:
    payload = json.dumps({"account_id": account})
    job: dict[str, Any] = run.json("enqueue", "enrich_account", payload, *more)
    return job


def test_a_job_is_enqueued_and_followed_to_its_end(run: Run, account: str) -> None:
    """The first thing a newcomer does in a terminal."""
    payload = json.dumps({"account_id": account})

    result = run("enqueue", "enrich_account", payload, "--watch")

    words = [line.split()[1] for line in result.stdout.splitlines()]
    assert words[0] == "created"
    assert words[-1] == "completed"
    assert "Account enrichment completed successfully" in result.stdout
    assert '"credits":' in result.stdout.splitlines()[-1]  # what came of it, not only that it did


def test_an_idempotency_key_gives_the_same_job(run: Run, account: str) -> None:
    """A script that is run twice does its work once."""
    key = uuid.uuid4().hex

    first = enqueued(run, account, "--in", "1h", "--key", key)
    second = enqueued(run, account, "--in", "1h", "--key", key)

    assert first["id"] == second["id"]


def test_jobs_are_listed_newest_first_and_filtered(run: Run, account: str) -> None:
    """What is asked for, and no more."""
    one = enqueued(run, account, "--in", "2h")
    two = enqueued(run, account, "--in", "2h")

    listed = run.json("ls", "--state", "scheduled", "--type", "enrich_account")

    ids = [job["id"] for job in listed]
    assert ids.index(two["id"]) < ids.index(one["id"])
    assert {job["status"] for job in listed} == {"pending"}
    assert len(run.json("ls", "--limit", "1")) == 1
    assert one["id"] in run("ls", "-s", "scheduled").stdout


def test_show_and_explain_describe_one_job(run: Run, account: str) -> None:
    """Why is it not running?"""
    job = enqueued(run, account, "--in", "3h")

    assert run.json("show", job["id"])["id"] == job["id"]
    assert job["id"] in run("show", job["id"]).stdout
    told = run.json("explain", job["id"])
    assert told["status"] == "pending"
    assert told["sentence"]
    assert told["sentence"] in run("explain", job["id"]).stdout


def test_cancel_and_retry_change_the_state(run: Run, account: str) -> None:
    """A cancelled job can be enqueued again."""
    job = enqueued(run, account, "--in", "1h")

    assert run.json("cancel", job["id"])["status"] == "cancelled"
    assert run.json("retry", job["id"])["status"] in {"pending", "processing"}
    run("watch", job["id"])


def test_a_job_is_run_again_from_a_step(run: Run, stack: RunningStack) -> None:
    """As a new job in the queue."""
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        job_id = worker.enqueue({"n": 1})
        lease = worker.lease_soon()
        worker.report(lease, steps=[{"name": "read", "result": 2}, {"name": "write", "result": 3}])
        worker.settle(lease)

        again = run.json("replay", job_id, "--from", "write", "--payload", '{"n": 100}')
        wrong = run.refused("replay", job_id, "--from", "nothing")

    assert again["id"] != job_id
    assert again["payload"] == {"n": 100}
    assert "nothing" in wrong["error"]


def test_logs_are_printed_oldest_first(run: Run, account: str) -> None:
    """And following them ends with the job."""
    job = enqueued(run, account)

    followed = run("logs", job["id"], "--follow").stdout.splitlines()
    lines = [json.loads(line) for line in run("logs", job["id"], "--json").stdout.splitlines()]

    assert followed[0].endswith("Starting enrichment for account…")
    assert len(lines) == len(followed)
    assert [line["id"] for line in lines] == sorted(line["id"] for line in lines)


def test_a_question_is_shown_with_the_way_to_answer_it(run: Run, stack: RunningStack) -> None:
    """Whoever watches in a terminal must not have to look for what is wanted."""
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        job_id = worker.enqueue()
        wait = {"kind": "ask", "name": "size", "question": "Which size?", "options": ["XL", "it's"]}
        worker.settle(worker.lease_soon(), "waiting", wait=wait)

        shown = run("show", job_id)
        assert f"Which size? [XL, it's]\n→ minutehand answer {job_id} XL" in shown.stdout
        assert "answered; it is pending" in run("answer", job_id, "XL").stdout
        worker.settle(worker.lease_soon(), "completed", result={})
        watched = run("watch", job_id).stdout

    assert f"waiting     Which size? [XL, it's] → minutehand answer {job_id} XL" in watched


def test_retrying_in_bulk_asks_before_it_touches_anything(
    run: Run, account: str, stack: RunningStack
) -> None:
    """Bulk changes are confirmed; a script says --yes."""
    job = enqueued(run, account, "--in", "1h")
    with stack.connect() as connection:
        connection.execute(
            "select queue.finish(array[%s]::uuid[], 'failed', 'no', '{}', queue.clock())",
            [job["id"]],
        )
    refused = run.refused("retry", "--all")
    result = run.json("retry", "--type", "nobody_has_this", "--yes")

    unnamed = run.refused("retry")

    assert refused["code"] == "not_confirmed"
    assert result == {"count": 0, "more": False}
    assert "minutehand retry ID, or minutehand retry --type TYPE" in unnamed["fix"]


def test_a_paused_workspace_runs_nothing_until_it_is_resumed(run: Run) -> None:
    """The operator's brake."""
    try:
        paused = run.json("pause", "--all", "--reason", "a test")
        assert paused["paused"] is True
        assert "a test" in run("stats").stdout
    finally:
        assert run.json("resume", "--all")["paused"] is False


def test_schedules_are_set_listed_and_removed(run: Run, account: str) -> None:
    """What runs by the clock, from the terminal."""
    name = f"nightly-{uuid.uuid4().hex[:8]}"
    payload = json.dumps({"account_id": account})
    zone = ("--timezone", "Europe/Berlin")

    made = run.json("schedules", "set", name, "0 3 * * *", "enrich_account", payload, *zone)
    listed = run.json("schedules")
    assert name in run("schedules").stdout
    everywhere = run.json("schedules", "--all")
    assert ("Acme", name) in {(one["workspace_name"], one["name"]) for one in everywhere}
    run("schedules", "remove", name)
    missing = run.refused("schedules", "remove", name)
    wrong = run("schedules", "set", name, "61 * * * *", "enrich_account", payload, code=1)

    assert made["timezone"] == "Europe/Berlin"
    assert name in {schedule["name"] for schedule in listed}
    assert missing["code"] == "schedule_not_found"
    assert wrong.stderr.strip()


def test_stats_count_what_ran(run: Run, account: str) -> None:
    """Per type, with percentiles."""
    job = enqueued(run, account)
    run("watch", job["id"])

    told = run.json("stats")

    assert set(told["live"]) == {"queued", "scheduled", "retrying", "running", "suspended"}
    assert "enrich_account" in run("stats").stdout


def test_tokens_are_printed_for_other_tools(run: Run, stack: RunningStack) -> None:
    """Curl needs one; a deploy needs the worker's."""
    user = run("token").stdout.strip()
    worker = run.json("token", "worker")["worker_key"]
    secret = run("token", "secret").stdout.strip()

    claims = jwt.decode(
        user, stack.supabase_jwt_secret, algorithms=["HS256"], audience="authenticated"
    )
    assert claims["email"] == stack.demo_email
    minted = jwt.decode(worker, stack.supabase_jwt_secret, algorithms=["HS256"])
    assert minted["role"] == "job_worker"
    assert len(secret) >= 40


def test_without_a_stack_it_says_what_to_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first mistake of every newcomer."""
    for name in ("MINUTEHAND_ENV_FILE", "SUPABASE_URL", "API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MINUTEHAND_PROJECT", str(tmp_path))

    result = CliRunner().invoke(app, ["ls"])

    assert result.exit_code == 1
    assert "minutehand dev" in result.stderr


def test_an_unreachable_api_is_named(run: Run, stack: RunningStack, tmp_path: Path) -> None:
    """Not a traceback."""
    lines = (stack.folder / "env").read_text().replace(stack.api_url, "http://127.0.0.1:9")
    env = tmp_path / "env"
    env.write_text(lines)

    result = run("ls", "--env-file", str(env), code=1)

    assert "http://127.0.0.1:9 does not answer" in result.stderr
    assert "doctor" in result.stderr


def test_a_refusal_says_what_to_do_next(run: Run) -> None:
    """By the API's stable word, whatever its sentence is."""
    unknown = run("enqueue", "nobody_registered_this", "--json", code=1)
    stranger = run("ls", "--token", "x.y.z", "--json", code=1)

    assert "first tick" in json.loads(unknown.stderr)["fix"]
    assert "minutehand token" in json.loads(stranger.stderr)["fix"]


def test_a_job_is_named_by_either_end_of_its_id(run: Run, account: str) -> None:
    """Nobody types 36 characters; the console shows the last eight."""
    job = enqueued(run, account, "--in", "1h")

    for part in (job["id"][:30], job["id"][-8:], job["id"][-12:].upper()):
        assert run.json("show", part)["id"] == job["id"]
    assert run.json("cancel", job["id"][-10:])["status"] == "cancelled"


def test_without_a_sign_in_the_command_acts_as_a_local_member(stack: RunningStack) -> None:
    """By the key that is in `.local/env`; another machine's stack asks for a person."""
    values = {name: value for name, value in stack.values.items() if not name.startswith("DEMO_")}
    connection = Connection(values)
    try:
        found = connection.call("GET", "/api/jobs", params={"limit": 1})
        claims = jwt.decode(connection.token, options={"verify_signature": False})
    finally:
        connection.close()
    with stack.connect() as database:
        belongs = database.execute(
            "select count(*) from queue.tenant_members where user_id = %s", (claims["sub"],)
        ).fetchone()

    assert "jobs" in found
    assert belongs is not None
    assert belongs[0] > 0
    with pytest.raises(CommandFailed, match="not signed in"):
        _ = Connection({**values, "SUPABASE_URL": "https://abcdefghijklmnopqrst.supabase.co"}).token
