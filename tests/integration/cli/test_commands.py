"""The verbs of `minutehand` against the running stack, in both of their forms."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import jwt
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from minutehand.cli.jobs import COLUMNS
from minutehand.local.users import ADA
from minutehand.terminal.output import Output
from tests.e2e.console.worker import HandWorker
from tests.support.command import Run, app
from tests.support.paths import ROOT
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


def as_json(result: Result) -> Any:
    return json.loads(result.stdout)


def enqueued(run: Run, account: str, *more: str) -> dict[str, Any]:
    payload = json.dumps({"account_id": account})
    job: dict[str, Any] = as_json(run("enqueue", "enrich_account", payload, *more, "--json"))
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


def test_following_prints_one_json_document_per_event(run: Run, account: str) -> None:
    """Programs read lines."""
    job = enqueued(run, account)

    events = [json.loads(line) for line in run("watch", job["id"], "--json").stdout.splitlines()]

    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


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

    listed = as_json(run("ls", "--status", "pending", "--type", "enrich_account", "--json"))

    ids = [job["id"] for job in listed]
    assert ids.index(two["id"]) < ids.index(one["id"])
    assert {job["status"] for job in listed} == {"pending"}
    assert len(as_json(run("ls", "--limit", "1", "--json"))) == 1
    assert one["id"] in run("ls", "-s", "pending").stdout


def test_show_and_explain_tell_about_one_job(run: Run, account: str) -> None:
    """Why is it not running?"""
    job = enqueued(run, account, "--in", "3h")

    assert as_json(run("show", job["id"], "--json"))["id"] == job["id"]
    assert job["id"] in run("show", job["id"]).stdout
    told = as_json(run("explain", job["id"], "--json"))
    assert told["status"] == "pending"
    assert told["sentence"]
    assert told["sentence"] in run("explain", job["id"]).stdout


def test_cancel_and_retry_change_the_state(run: Run, account: str) -> None:
    """A cancelled job can be enqueued again."""
    job = enqueued(run, account, "--in", "1h")

    assert as_json(run("cancel", job["id"], "--json"))["status"] == "cancelled"
    assert as_json(run("retry", job["id"], "--json"))["status"] in {"pending", "processing"}
    run("watch", job["id"])


def test_what_cannot_be_done_is_said_with_a_code(run: Run, account: str) -> None:
    """A script can tell the cases apart."""
    job = enqueued(run, account)
    run("watch", job["id"])

    told = json.loads(run("cancel", job["id"], "--json", code=1).stderr)
    missing = json.loads(run("show", str(uuid.uuid4()), "--json", code=1).stderr)

    assert told["code"] == "invalid_state"
    assert missing["code"] == "job_not_found"


def test_a_wrong_type_or_payload_is_refused_with_the_reason(run: Run) -> None:
    """Nothing is stored, and the words are the API's."""
    assert "nobody" in run("enqueue", "nobody", code=1).stderr
    assert "is not JSON" in run("enqueue", "enrich_account", "{", code=1).stderr
    assert "account_id" in run("enqueue", "enrich_account", "{}", code=1).stderr
    assert (
        "must be a time span"
        in run("enqueue", "enrich_account", "{}", "--in", "soon", code=1).stderr
    )


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
        worker.settle(worker.lease()[0], "waiting", wait=wait)

        shown = run("show", job_id)
        assert f"Which size? [XL, it's]\n→ minutehand answer {job_id} XL" in shown.stderr
        assert "answered; it is pending" in run("answer", job_id, "XL").stdout
        worker.settle(worker.lease()[0], "completed", result={})
        watched = run("watch", job_id).stdout

    assert f"waiting     Which size? [XL, it's] → minutehand answer {job_id} XL" in watched


def test_redrive_asks_before_it_touches_anything(
    run: Run, account: str, stack: RunningStack
) -> None:
    """Bulk changes are confirmed; a script says --yes."""
    job = enqueued(run, account, "--in", "1h")
    with stack.connect() as connection:
        connection.execute(
            "select queue.finish(array[%s]::uuid[], 'failed', 'no', '{}', queue.clock())",
            [job["id"]],
        )
    refused = json.loads(run("redrive", "--json", code=1).stderr)
    result = as_json(run("redrive", "--type", "nobody_has_this", "--yes", "--json"))

    assert refused["code"] == "not_confirmed"
    assert result == {"count": 0, "more": False}


def test_a_paused_workspace_runs_nothing_until_it_is_resumed(run: Run, stack: RunningStack) -> None:
    """The operator's brake."""
    workspace = stack.demo_workspace_id
    try:
        paused = as_json(run("pause", "workspace", workspace, "--reason", "a test", "--json"))
        assert paused["paused"] is True
        assert "a test" in run("stats").stdout
    finally:
        assert as_json(run("resume", "workspace", workspace, "--json"))["paused"] is False


def test_a_workspaces_name_is_not_its_id(run: Run) -> None:
    """It says what to give in place of a name, and calls no route that is not there."""
    result = run("pause", "workspace", "Acme", code=1)

    assert "'Acme' must be a workspace's id" in result.stderr
    assert "minutehand ls --json" in result.stderr


def test_only_the_operator_pauses_a_type(run: Run) -> None:
    """With the secret key of the stack's environment."""
    try:
        run("pause", "type", "enrich_contact", "--reason", "a test")
        limits = as_json(run("stats", "--all", "--json"))["limits"]
        assert "Realtime's messages" in run("stats", "--all").stdout
    finally:
        run("resume", "type", "enrich_contact")

    [limit] = [limit for limit in limits if limit["job_type"] == "enrich_contact"]
    assert limit["pause_reason"] == "a test"


def test_alerts_are_set_listed_and_removed(run: Run) -> None:
    """By their name; what is wrong is told in a sentence."""
    name = f"test/{uuid.uuid4().hex[:8]}"

    wanted = ("queue_p95_seconds", "90", "--within", "1h")
    made = as_json(run("alerts", "set", name, *wanted, "--json"))
    listed = {alert["name"]: alert for alert in as_json(run("alerts", "--json"))}
    table = run("alerts").stdout
    run("alerts", "remove", name)
    missing = json.loads(run("alerts", "remove", name, "--json", code=1).stderr)
    strange = run("alerts", "set", name, "failed", "2", "--mail", "eve@elsewhere.test", code=1)

    assert listed[name] == made
    assert (made["threshold"], made["minutes"], made["enabled"]) == (90, 60, True)
    assert "1 min 30 s" in table
    assert missing["code"] == "alert_not_found"
    assert "must be a member" in strange.stderr


def test_schedules_are_set_listed_and_removed(run: Run, account: str) -> None:
    """What runs by the clock, from the terminal."""
    name = f"nightly-{uuid.uuid4().hex[:8]}"
    payload = json.dumps({"account_id": account})
    zone = ("--timezone", "Europe/Berlin")

    made = as_json(
        run("schedules", "set", name, "0 3 * * *", "enrich_account", payload, *zone, "--json")
    )
    listed = as_json(run("schedules", "--json"))
    assert name in run("schedules").stdout
    run("schedules", "remove", name)
    missing = json.loads(run("schedules", "remove", name, "--json", code=1).stderr)
    wrong = run("schedules", "set", name, "61 * * * *", "enrich_account", payload, code=1)

    assert made["timezone"] == "Europe/Berlin"
    assert name in {schedule["name"] for schedule in listed}
    assert missing["code"] == "schedule_not_found"
    assert wrong.stderr.strip()


def test_stats_count_what_ran(run: Run, account: str) -> None:
    """Per type, with percentiles."""
    job = enqueued(run, account)
    run("watch", job["id"])

    told = as_json(run("stats", "--json"))

    assert set(told["live"]) == {"pending", "processing", "waiting"}
    assert "enrich_account" in run("stats").stdout


def test_tokens_are_printed_for_other_tools(run: Run, stack: RunningStack) -> None:
    """Curl needs one; a deploy needs the worker's."""
    user = run("token").stdout.strip()
    worker = as_json(run("token", "worker", "--json"))["worker_key"]
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


def test_a_directory_is_no_env_file(run: Run, tmp_path: Path) -> None:
    """Not a traceback either."""
    result = run("ls", "--env-file", str(tmp_path), code=1)

    assert f"{tmp_path} is not a file" in result.stderr.replace("\n", "")


@pytest.mark.parametrize("verb", ["show", "explain", "cancel", "retry", "logs", "watch"])
def test_what_is_no_id_is_told_from_a_job_that_is_not_there(run: Run, verb: str) -> None:
    """`Route not found` is true and helps nobody."""
    wrong = run(verb, "17", code=2)
    absent = run(verb, str(uuid.uuid4()), "--json", code=1)

    assert "minutehand ls" in wrong.stderr
    told = json.loads(absent.stderr.splitlines()[-1])
    assert told["code"] == "job_not_found"
    assert "--workspace" in told["fix"]


@pytest.mark.parametrize("verb", ["show", "explain", "cancel", "retry", "logs", "watch"])
def test_anothers_job_is_one_that_does_not_exist(
    run: Run, account: str, stack: RunningStack, verb: str
) -> None:
    """The same words, whoever asks."""
    job = enqueued(run, account, "--in", "1h")
    eve = stack.sign_in(stack.values["DEMO_OTHER_EMAIL"])

    theirs = json.loads(run(verb, job["id"], "--token", eve, "--json", code=1).stderr)
    nobodys = json.loads(run(verb, str(uuid.uuid4()), "--token", eve, "--json", code=1).stderr)

    assert theirs["code"] == nobodys["code"] == "job_not_found"
    assert theirs["fix"] == nobodys["fix"]


def test_a_state_nobody_knows_is_refused_with_the_known_ones(run: Run) -> None:
    """Before anything is asked over the network."""
    result = run("ls", "--status", "done", code=2)

    assert "completed" in result.stderr


def test_a_refusal_says_what_to_do_next(run: Run) -> None:
    """By the API's stable word, whatever its sentence is."""
    unknown = run("enqueue", "nobody_registered_this", "--json", code=1)
    stranger = run("ls", "--token", "x.y.z", "--json", code=1)

    assert "first tick" in json.loads(unknown.stderr)["fix"]
    assert "minutehand token" in json.loads(stranger.stderr)["fix"]


def test_a_wrong_password_is_told_in_auths_own_words(
    run: Run, monkeypatch: pytest.MonkeyPatch, stack: RunningStack
) -> None:
    """Not as a JSON document in a sentence."""
    monkeypatch.setenv("MINUTEHAND_EMAIL", stack.demo_email)
    monkeypatch.setenv("MINUTEHAND_PASSWORD", "wrong")

    told = json.loads(run("ls", "--json", code=1).stderr)

    assert told["code"] == "sign_in_failed"
    assert "{" not in told["error"]
    assert "MINUTEHAND_PASSWORD" in told["fix"]


def test_nothing_to_redrive_is_no_question(run: Run) -> None:
    """There is nothing to confirm."""
    result = run("redrive", "--type", "a_type_without_jobs")

    assert "no failed job matches" in result.stdout


def test_a_narrow_screen_keeps_a_row_on_its_line(
    run: Run, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folded ids cannot be copied."""
    job = enqueued(run, account, "--in", "1h")
    narrow = Output()
    narrow.out = Console(width=60, highlight=False)
    with narrow.out.capture() as drawn:
        narrow.table([{**job, "tries": "0/5"}], COLUMNS, empty="")

    lines = drawn.get().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(job["id"])


def test_a_reader_that_leaves_early_is_no_error(stack: RunningStack, account: str) -> None:
    """`| head -1` is how people look at long lists."""
    done = subprocess.run(
        f"{sys.executable} -m minutehand.cli ls -n 1000 --json | head -c 1",
        shell=True, cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "MINUTEHAND_ENV_FILE": str(stack.folder / "env")},
    )  # fmt: skip

    assert done.stdout == "["
    assert "Traceback" not in done.stderr


def test_a_job_is_named_by_either_end_of_its_id(run: Run, account: str) -> None:
    """Nobody types 36 characters; the console shows the last eight."""
    job = enqueued(run, account, "--in", "1h")

    for part in (job["id"][:30], job["id"][-8:], job["id"][-12:].upper()):
        assert as_json(run("show", part, "--json"))["id"] == job["id"]
    assert as_json(run("cancel", job["id"][-10:], "--json"))["status"] == "cancelled"


def test_jobs_that_cannot_be_told_apart_are_listed(run: Run, account: str) -> None:
    """Two jobs of one moment begin alike, and cancelling the wrong one cannot be undone."""
    shared = ""
    while len(shared) < 6:  # the sixth digit changes every few hours
        first, second = (enqueued(run, account, "--in", "1h") for _ in range(2))
        alike = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(first["id"], second["id"], strict=True)
        )
        shared = "".join(digit for digit, _ in alike).replace("-", "")

    failure = json.loads(run("cancel", shared, "--json", code=1).stderr)

    assert failure["code"] == "ambiguous_id"
    assert first["id"] in failure["error"]
    assert second["id"] in failure["error"]
    assert as_json(run("show", first["id"], "--json"))["status"] == "pending"


def test_a_part_of_no_jobs_id_says_so(run: Run) -> None:
    """Not a traceback, nor the database's words."""
    assert json.loads(run("logs", "0" * 12, "--json", code=1).stderr)["code"] == "job_not_found"
    assert "6 or more digits" in run("logs", "12345", code=2).stderr
    assert "6 or more digits" in run("logs", "my-job", code=2).stderr


def test_the_apis_address_and_a_token_are_enough(
    stack: RunningStack, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever uses the service need not know where its database lies."""
    for name in (
        "MINUTEHAND_ENV_FILE",
        *(key for key in os.environ if key.startswith("SUPABASE_")),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("API_URL", stack.api_url)
    monkeypatch.setenv("MINUTEHAND_TOKEN", stack.token(str(ADA.id)))
    monkeypatch.setenv("MINUTEHAND_WORKSPACE_ID", stack.demo_workspace_id)
    name = f"only the API/{uuid.uuid4().hex[:8]}"

    def call(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == code, (result.output, result.stderr, result.exception)
        return result

    job = enqueued(call, account, "--in", "1h")
    assert as_json(call("cancel", job["id"][-8:]))["status"] == "cancelled"
    assert set(as_json(call("stats", "--minutes", "5"))["live"]) == {
        "pending",
        "processing",
        "waiting",
    }
    payload = json.dumps({"account_id": account})
    made = as_json(call("schedules", "set", name, "0 3 * * *", "enrich_account", payload, "--off"))
    assert (made["name"], made["enabled"]) == (name, False)
    assert name in {schedule["name"] for schedule in as_json(call("schedules"))}
    assert as_json(call("schedules", "remove", name))["removed"] is True
    refused = json.loads(call("pause", "type", "enrich_account", code=1).stderr)
    monkeypatch.delenv("MINUTEHAND_WORKSPACE_ID")
    asked = json.loads(call("ls", code=1).stderr)

    assert (refused["code"], asked["code"]) == ("missing_setting", "workspace_needed")
