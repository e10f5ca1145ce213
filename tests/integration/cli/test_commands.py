"""The verbs of `minutehand` against the running stack, in both of their forms."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
from typer.testing import CliRunner

from minutehand.local.users import ADA
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.worker import Job, JobContext, Stage, processor
from minutehand.worker.registry import default_registry
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


def test_another_payload_is_given_before_a_job_runs(run: Run, account: str) -> None:
    """While it is scheduled, or with the retry."""
    job = enqueued(run, account, "--in", "1h")
    absent = json.dumps({"account_id": str(uuid.uuid4())})
    right = json.dumps({"account_id": account})

    edited = run.json("edit", job["id"], absent)
    wrong = run.refused("edit", job["id"], "[]")
    run("cancel", job["id"])
    retried = run.json("retry", job["id"], "--payload", right)

    assert (edited["payload"], edited["state"]) == (json.loads(absent), "scheduled")
    assert wrong["code"] == "bad_payload"
    assert retried["payload"] == json.loads(right)
    run("watch", job["id"])


def test_a_job_is_run_again_from_a_step(run: Run, stack: RunningStack) -> None:
    """As a new job in the queue; or on this machine, of which the queue sees nothing."""
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        job_id = worker.enqueue({"n": 1})
        lease = worker.lease_soon()
        worker.report(lease, steps=[{"name": "read", "result": 2}, {"name": "write", "result": 3}])
        worker.settle(lease)
        begun: list[str] = []

        @processor(worker.job_type, payload=dict)
        async def add(job: Job[dict[str, Any]], ctx: JobContext) -> int:
            async def step(name: str, value: int) -> int:
                begun.append(name)
                return value

            first = await ctx.step("read", partial(step, "read", 20))
            second = await ctx.step("write", partial(step, "write", 30))
            return int(job.payload["n"]) + first + second

        start = ["replay", job_id, "--from", "write", "--payload", '{"n": 100}']
        try:
            whole = run.json("replay", job_id, "--local")
            here = run.json(*start, "--result", "read=4", "--local")
        finally:
            default_registry.forget(__name__)
        wrong = run.refused("replay", job_id, "--from", "nothing")
        made = run.json(*start, "--result", "read=4")
        again = worker.lease_soon()

    assert (here["outcome"], here["result"], here["steps"]) == ("completed", 134, {"write": 30})
    assert (whole["result"], whole["steps"]) == (6, {})
    assert begun == ["write"]
    assert wrong["code"] == "invalid_argument"
    assert (made["replay_of"], made["replay_from"]) == (job_id, "write")
    assert again["job"]["id"] == made["id"]  # the only one besides the origin
    assert again["steps"] == {"read": 4}


def test_an_empty_payload_is_one(run: Run, stack: RunningStack) -> None:
    """It takes the place of the origin's as any other does."""
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        job_id = worker.enqueue({"n": 1})
        worker.settle(worker.lease_soon())

        run.json("replay", job_id, "--payload", "{}")

        assert worker.lease_soon()["job"]["payload"] == {}


def test_here_a_stage_runs_again_with_what_comes_after_it(run: Run, stack: RunningStack) -> None:
    """What ran beside it is kept, as in the queue; also from a stage that never finished."""
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        job_id = worker.enqueue({})
        lease = worker.lease_soon()
        shape = {"left": [], "right": [], "both": ["left", "right"], "last": ["both"]}
        steps = [{"name": "graph", "kind": "graph", "result": shape}]
        steps += [{"name": name, "result": name} for name in ("left", "right", "both")]
        worker.report(lease, steps=steps)
        worker.settle(lease)
        begun: list[str] = []

        @processor(worker.job_type, payload=dict)
        async def draw(job: Job[dict[str, Any]], ctx: JobContext) -> dict[str, Any]:
            async def stage(name: str, given: Mapping[str, Any]) -> str:
                begun.append(name)
                return name.upper()

            return await ctx.graph(
                [
                    Stage(name=name, run=partial(stage, name), after=after)
                    for name, after in shape.items()
                ]
            )

        start = ["replay", job_id, "--local", "--from"]
        try:
            left = run.json(*start, "left", "--result", 'right="mine"')
            last = run.json(*start, "last")
        finally:
            default_registry.forget(__name__)

    assert left["result"] == {"left": "LEFT", "right": "mine", "both": "BOTH", "last": "LAST"}
    assert last["result"] == {"left": "left", "right": "right", "both": "both", "last": "LAST"}
    assert begun == ["left", "both", "last", "last"]


def test_what_cannot_be_done_is_said_with_a_code(run: Run, account: str) -> None:
    """A script can tell the cases apart."""
    job = enqueued(run, account)
    run("watch", job["id"])

    told = run.refused("cancel", job["id"])
    missing = run.refused("show", str(uuid.uuid4()))

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
        worker.settle(worker.lease_soon(), "waiting", wait=wait)

        shown = run("show", job_id)
        assert f"Which size? [XL, it's]\n→ minutehand answer {job_id} XL" in shown.stderr
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


def test_a_paused_workspace_runs_nothing_until_it_is_resumed(run: Run, stack: RunningStack) -> None:
    """The operator's brake."""
    workspace = stack.demo_workspace_id
    try:
        paused = run.json("pause", "workspace", workspace, "--reason", "a test")
        assert paused["paused"] is True
        assert "a test" in run("stats").stdout
    finally:
        assert run.json("resume", "workspace", workspace)["paused"] is False


def test_a_workspaces_name_is_not_its_id(run: Run) -> None:
    """It says what to give in place of a name, and calls no route that is not there."""
    result = run("pause", "workspace", "Acme", code=1)

    assert "'Acme' must be a workspace's id" in result.stderr
    assert "minutehand ls --json" in result.stderr


def test_only_the_operator_pauses_a_type(run: Run) -> None:
    """With the secret key of the stack's environment."""
    try:
        run("pause", "type", "enrich_contact", "--reason", "a test")
        limits = run.json("stats", "--all")["limits"]
    finally:
        run("resume", "type", "enrich_contact")

    [limit] = [limit for limit in limits if limit["job_type"] == "enrich_contact"]
    assert limit["pause_reason"] == "a test"


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


@pytest.mark.parametrize("verb", ["show", "explain", "cancel", "retry", "replay", "logs", "watch"])
def test_anothers_job_is_one_that_does_not_exist(
    run: Run, account: str, stack: RunningStack, verb: str
) -> None:
    """The same words, whoever asks; what is no id at all is told apart."""
    job = enqueued(run, account, "--in", "1h")
    eve = stack.sign_in(stack.values["DEMO_OTHER_EMAIL"])

    theirs = run.refused(verb, job["id"], "--token", eve)
    absent = run.refused(verb, str(uuid.uuid4()), "--token", eve)

    assert theirs["code"] == absent["code"] == "job_not_found"
    assert theirs["fix"] == absent["fix"]
    assert "--workspace" in absent["fix"]
    assert "minutehand ls" in run(verb, "17", code=2).stderr


def test_a_refusal_says_what_to_do_next(run: Run) -> None:
    """By the API's stable word, whatever its sentence is."""
    unknown = run("enqueue", "nobody_registered_this", "--json", code=1)
    stranger = run("ls", "--token", "x.y.z", "--json", code=1)

    assert "first tick" in json.loads(unknown.stderr)["fix"]
    assert "minutehand token" in json.loads(stranger.stderr)["fix"]


def test_a_wrong_password_is_refused_in_auths_own_words(
    run: Run, monkeypatch: pytest.MonkeyPatch, stack: RunningStack
) -> None:
    """Not as a JSON document in a sentence."""
    monkeypatch.setenv("MINUTEHAND_EMAIL", stack.demo_email)
    monkeypatch.setenv("MINUTEHAND_PASSWORD", "wrong")

    told = run.refused("ls")

    assert told["code"] == "sign_in_failed"
    assert "{" not in told["error"]
    assert "MINUTEHAND_PASSWORD" in told["fix"]


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
        assert run.json("show", part)["id"] == job["id"]
    assert run.json("cancel", job["id"][-10:])["status"] == "cancelled"


def test_jobs_that_cannot_be_distinguished_are_listed(run: Run, account: str) -> None:
    """Two jobs of one moment begin alike, and cancelling the wrong one cannot be undone."""
    shared = ""
    while len(shared) < 6:  # the sixth digit changes every few hours
        first, second = (enqueued(run, account, "--in", "1h") for _ in range(2))
        alike = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(first["id"], second["id"], strict=True)
        )
        shared = "".join(digit for digit, _ in alike).replace("-", "")

    failure = run.refused("cancel", shared)

    assert failure["code"] == "ambiguous_id"
    assert first["id"] in failure["error"]
    assert second["id"] in failure["error"]
    assert run.json("show", first["id"])["status"] == "pending"


def test_a_part_of_no_jobs_id_says_so(run: Run) -> None:
    """Not a traceback, nor the database's words."""
    assert run.refused("logs", "0" * 12)["code"] == "job_not_found"
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

    call = Run()
    job = enqueued(call, account, "--in", "1h")
    assert call.json("cancel", job["id"][-8:])["status"] == "cancelled"
    assert "queued" in call.json("stats", "--minutes", "5")["live"]
    payload = json.dumps({"account_id": account})
    made = call.json("schedules", "set", name, "0 3 * * *", "enrich_account", payload, "--off")
    assert (made["name"], made["enabled"]) == (name, False)
    assert name in {schedule["name"] for schedule in call.json("schedules")}
    assert call.json("schedules", "remove", name)["removed"] is True
    refused = call.refused("pause", "type", "enrich_account")
    monkeypatch.delenv("MINUTEHAND_WORKSPACE_ID")
    asked = call.refused("ls")

    assert (refused["code"], asked["code"]) == ("missing_setting", "workspace_needed")


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


def test_tenants_of_a_projects_own_are_not_listed_here(stack: RunningStack, tmp_path: Path) -> None:
    """Which they are is said in place of a function that is not there."""
    (tmp_path / "minutehand.toml").write_text('tenancy = "existing"\n')
    env = tmp_path / "env"
    env.write_text("".join(f"{n}={v}\n" for n, v in stack.values.items()))
    with env.open("a") as file:
        file.write(f"MINUTEHAND_PROJECT={tmp_path}\n")

    result = CliRunner().invoke(app, ["workspaces", "--env-file", str(env)])

    assert result.exit_code == 1
    assert "own organizations and their members" in result.stderr


def test_a_watched_job_that_does_not_start_says_why(stack: RunningStack, account: str) -> None:
    """Someone who waits at a terminal asks why before they look for another command."""
    with subprocess.Popen(
        [sys.executable, "-m", "minutehand.cli", "enqueue", "enrich_account",
         json.dumps({"account_id": account}), "--in", "1h", "--watch",
         "--env-file", str(stack.folder / "env")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as watching:  # fmt: skip
        assert watching.stderr is not None
        said = next((line for line in watching.stderr if "scheduled" in line), None)
        watching.terminate()

    assert said is not None


def test_the_shell_completes_types_and_ids(stack: RunningStack, run: Run, account: str) -> None:
    """Of the stack that the line before the cursor names; without one nothing, and no error."""
    job = enqueued(run, account, "--in", "1h")

    def completed(line: str, env_file: Path = stack.folder / "env") -> list[str]:
        words = line.split(" ")
        variables = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        done = subprocess.run(
            [sys.executable, "-m", "minutehand.cli"],
            env={**os.environ, **variables, "_MINUTEHAND_COMPLETE": "complete_bash",
                 "MINUTEHAND_ENV_FILE": str(env_file)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.split()

    def found(line: str) -> list[str]:
        """A Tab waits two seconds at most; on a busy machine another one finds it."""
        give_up = time.monotonic() + 60
        while not (words := completed(line)) and time.monotonic() < give_up:
            continue
        return words

    assert found("minutehand enqueue enrich_a") == ["enrich_account"]
    assert found("minutehand ls --type enrich_c") == ["enrich_contact"]
    assert found(f"minutehand show {job['id'][:-2]}") == [job["id"]]
    assert completed("minutehand show 0", Path("/nowhere")) == []


def test_top_shows_queues_workers_and_failures(run: Run, stack: RunningStack) -> None:
    """One page of what a person would otherwise ask with four commands."""
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        worker.enqueue_many([{}, {}])
        failed = worker.run("failed", error={"type": "Boom", "message": "no luck today"})
        lease = worker.lease_soon()

        shown = run("top", env={"COLUMNS": "200"}).stdout
        told = run.json("top")
        worker.settle(lease)

    assert re.search(rf"{worker.job_type} .* 1 +0 +1 ", shown)  # runs, completed, failed
    assert re.search(rf"by-hand +1 .*{worker.job_type}", shown)
    assert re.search(rf"{failed} +{worker.job_type} .* ago +no luck today", shown)
    assert told["counts"]["states"]["running"] >= 1
