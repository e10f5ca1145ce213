"""The `minutehand` commands with the running stack.

The file tests/contract/test_ways_in.py tests how commands enqueue jobs.
"""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from minutehand.aws import client
from minutehand.config import Settings
from minutehand.local.users import ADA
from tests.e2e.console.worker import HandWorker
from tests.support.command import Run
from tests.support.engine import SEALED, Json
from tests.support.paths import ROOT
from tests.support.patience import until
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.usefixtures("acme_key")


@pytest.fixture
def run(stack: RunningStack) -> Run:
    """A function that runs a command line on the stack as the user Ada."""
    return Run(env={"MINUTEHAND_ENV_FILE": str(stack.folder / "env")})


@pytest.fixture
def account(stack: RunningStack) -> str:
    """A job payload that names an account of Ada's workspace."""
    [(account,)] = stack.run(
        "insert into accounts (workspace_id, name, domain)"
        " values (%s, 'Command', %s) returning id::text",
        stack.demo_workspace_id,
        f"{uuid.uuid4().hex}.example",
    )
    return json.dumps({"account_id": account})


def test_a_job_is_steered_by_either_end_of_its_id(
    run: Run, account: str, stack: RunningStack
) -> None:
    """A user may name a job by the beginning or the end of its id."""
    command = ("enqueue", "enrich_account", account, "--in", "2h", "--key", str(uuid.uuid4()))
    job: Json = run.json(*command)
    assert "already enqueued" in run(*command).stderr
    end = job["id"][-10:]

    assert job["id"] in [row["id"] for row in run.json("ls", "-s", "scheduled")]
    assert job["id"] in run("show", job["id"][:30]).stdout
    assert "It is scheduled for" in run.json("explain", end)["sentence"]
    workspace = ("--workspace", stack.demo_workspace_id, "--token", stack.supabase_secret_key)
    assert "It is scheduled for" in run("explain", end, *workspace).stdout  # with local times
    assert re.search(r"; \d+ scheduled$", run("status", *workspace).stdout, re.M)
    assert run.json("cancel", end)["status"] == "cancelled"
    assert run.json("retry", end)["status"] in {"pending", "processing"}
    run("watch", end)
    assert "completed successfully" in run("show", end).stdout


def test_a_question_is_shown_with_the_way_to_answer_it(run: Run, stack: RunningStack) -> None:
    """`explain` of a job leads to its grandchild's question.

    `show` prints the question and the command that answers it.
    """
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        top = worker.enqueue()
        for level in range(2):
            lease = worker.lease_one()
            child = {"job_type": worker.job_type, "payload": {}}
            ids = worker.spawn(lease, f"s{level}", [child])
            worker.suspend(lease, kind="children", job_ids=ids)
        [job_id] = ids
        lease = worker.lease_one()
        options = ["XL", "it's"]
        worker.suspend(lease, "size", kind="ask", question="Which size?", options=options)

        output = run("show", job_id).stdout
        assert f"minutehand explain {job_id}" in run("explain", top).stdout
        assert "for an answer to: Which size? [XL, it's]" in output
        assert f"minutehand answer {job_id}" in output
        assert "answered; it is pending" in run("answer", job_id, "XL").stdout
        for _ in range(3):
            worker.settle(worker.lease_one(), "completed", result={})


def test_a_job_is_watched_and_the_workspace_is_listed(
    run: Run, stack: RunningStack, account: str
) -> None:
    """`watch` prints a job's events from its creation to its result.

    Other commands list schedules, webhooks, workers and log lines of the workspace. With the
    operator's key, `status` describes all workspaces unless a workspace is given.
    """
    job_id = run.json("enqueue", "enrich_account", account)["id"]
    lines = run("watch", job_id).stdout.splitlines()

    assert [line.split()[1] for line in (lines[0], lines[-1])] == ["created", "completed"]
    assert '"credits":' in lines[-1]  # the line contains the job's result
    assert run.json("schedules") == run.json("webhooks") == []
    off = {"name": "off", "cron": "* * * * *", "job_type": "beat", "enabled": False}
    hook = {"url": "https://x.example/", "sealed_secret": SEALED, "job_types": ["nobodys"]}
    for kind, row in (("schedule", off), ("webhook", hook)):
        put = f"select put_{kind}(%s, %s)"
        stack.run(put, stack.demo_workspace_id, json.dumps(row))
    assert re.search(r"UTC +- +no", run("schedules").stdout)  # has no next job
    assert "no worker has" in run("webhooks").stdout
    stack.run("delete from queue.schedules where name = 'off'")
    stack.run("delete from queue.webhooks where job_types = '{nobodys}'")
    assert "enrich_account" in run.json("workers")[0]["job_types"]
    assert re.search(r"seen (\d+ s ago|now)", run("workers").stdout)
    assert job_id[-8:] in run("logs", "-n", "50").stdout
    until(lambda: run.json("status")["tenants"])  # maintenance updates the statistics later
    assert run.json("status", "-w", stack.demo_workspace_id)["tenants"] is None


def test_new_log_lines_are_followed_without_the_old_ones(run: Run, stack: RunningStack) -> None:
    """`logs -n 1 --follow` prints the last log line and then each new one.

    The workspace is new, because the stack's own worker may write log lines into the demo's.
    """
    new = "insert into workspaces (name) values ('Logs') returning id::text"
    [(workspace,)] = stack.run(new)
    stack.run("insert into workspace_members values (%s, %s, 'member')", workspace, ADA.id)
    command = [sys.executable, "-m", "minutehand.cli", "logs", "-n", "1", "--follow", "--json"]
    command += ["--workspace", workspace]
    with HandWorker(stack, workspace) as worker:
        worker.enqueue()
        lease = worker.lease_one()

        def log(message: str) -> None:
            worker.report(lease, logs=[{"level": "info", "message": message}])

        log("old")
        log("older")
        with subprocess.Popen(
            command, cwd=ROOT, env=os.environ | run.env, stdout=subprocess.PIPE, text=True
        ) as follower:
            assert follower.stdout
            messages = (json.loads(line)["message"] for line in follower.stdout)
            first = next(messages)
            log("new")
            assert "new" in messages
            log("last")
            worker.settle(lease, "completed", result={})
            assert "last" in messages
            follower.kill()

    assert first == "older"


def test_a_type_that_is_refused_says_why_in_the_list(run: Run, stack: RunningStack) -> None:
    """`types` marks a job type whose registration was rejected, and prints the reason."""
    schedules = [{"name": "edge.beat", "cron": "0 7 * * *", "timezone": "Europe/Berln"}]
    spec = json.dumps([{"job_type": "edge.beat", "schedules": schedules}])
    stack.run("select register_job_types(%s)", spec)
    try:
        listing = run("types")
    finally:
        stack.run("delete from queue.job_types where job_type = 'edge.beat'")

    assert re.search(r"edge\.beat +REFUSED", listing.stdout)
    rejected = r"the code of edge\.beat cannot be used: .*Europe/Berln"
    assert re.search(rejected, listing.stderr)


def test_a_type_of_a_paused_queue_is_marked_in_the_list(run: Run, stack: RunningStack) -> None:
    """`types` shows that the queue of a type is paused."""
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        worker.register(worker.job_type, queue="held")
        worker.pause("queue", "held")
        listing = run("types").stdout
        worker.resume("queue", "held")
    assert re.search(rf"{worker.job_type} +queue paused", listing)


def test_jobs_of_no_tenant_are_those_of_the_system(run: Run, stack: RunningStack) -> None:
    """The operator lists and cancels jobs of the system workspace.

    Schedules in code enqueue such jobs.
    """
    spec = json.dumps([{"job_type": "of.clock"}])
    enqueue = "select enqueue_job('ffffffff-ffff-4fff-bfff-ffffffffffff', 'of.clock', '{}')"
    secret = stack.values["SUPABASE_SECRET_KEY"]
    stack.run("select register_job_types(%s)", spec)
    stack.run(enqueue)

    [job] = run.json("ls", "-w", "system", "--type", "of.clock", "--token", secret)

    assert job["job_type"] == "of.clock"
    assert run.refused("ls", "--token", secret)["code"] == "workspace_needed"
    run("cancel", job["id"], "-w", "system", "--token", secret)


def test_a_person_is_exported_and_erased_with_all_files(
    run: Run, stack: RunningStack, account: str
) -> None:
    """`export` and `erase` need the operator's key. `erase` also needs a confirmation."""
    user = str(uuid.uuid4())
    job = run.json("enqueue", "enrich_account", account, "--in", "2h", "--tag", f"user:{user}")
    key = f"workspaces/{stack.demo_workspace_id}/{user}/ada-speaks.mp4"
    settings = Settings.from_env(stack.values)
    storage = client(settings, "s3")
    storage.put_object(Bucket=settings.uploads_bucket, Key=key, Body=b"x")
    stack.run(
        "insert into trainings (workspace_id, title, object_key, created_by)"
        " values (%s, 't', %s, %s)",
        *(stack.demo_workspace_id, key, user),
    )

    [exported] = json.loads(run("export", user).stdout)["tables"]["public.jobs"]
    assert exported["id"] == job["id"]
    assert run.refused("erase", user)["code"] == "not_confirmed"
    erased = run("erase", user, "--yes").stdout
    assert "deleted 1 in public.jobs" in erased
    assert f"deleted file {key}" in erased
    listed = storage.list_objects_v2(Bucket=settings.uploads_bucket, Prefix=key)
    assert listed["KeyCount"] == 0
    assert "no data of this person" in run("erase", user, "--yes").stdout
    assert run.json("export", user, "--word", user)["tables"] == {}


def test_a_type_is_paused_in_one_workspace_or_in_all(run: Run, stack: RunningStack) -> None:
    """A resume of one workspace leaves the operator's pause."""
    own = ("--type", "enrich_account", "-w", stack.demo_workspace_id)
    paused = "select kind from queue.pauses where name like '%enrich_account' order by kind"

    assert f"in the workspace {stack.demo_workspace_id}" in run("pause", *own).stdout
    assert stack.run(paused) == [("workspace_type",)]
    run("pause", *own[:2])
    assert "still stops these jobs" in run("resume", *own).stdout
    assert stack.run(paused) == [("job_type",)]
    run("resume", *own[:2])
    assert stack.run(paused) == []


#: The code of each rejected command, or a part of its fix or message.
REFUSED = {
    "retry --all": "not_confirmed",
    "retry --cause zz --yes": "unknown_cause",
    "ls --token x.y.z": "minutehand token",
    "show 00000000": "minutehand ls",
}
#: For each command line with a wrong argument, the name that its message must contain.
WRONG = {
    "retry": "a criterion must be given",
    "pause": "--type, --queue and --all",
    "pause --queue chat -w system": "--workspace must not be given",
    "ls --state nope": "state.0",
    "enqueue enrich_account {} --at yesterday": "--at",
    "enqueue enrich_account words": "PAYLOAD",
    "export ada": "USER_ID",
}


@pytest.mark.parametrize("line", [*REFUSED, *WRONG])
def test_a_refused_command_says_what_to_do(run: Run, line: str) -> None:
    """A rejected command prints the reason and what to do next.

    A wrong argument is named and the command exits with 2, so that scripts can detect it.
    """
    if line in WRONG:
        assert WRONG[line] in run(*line.split(), code=2).stderr
    else:
        assert REFUSED[line] in str(run.refused(*line.split()))


def test_a_type_is_shown_without_brackets_and_whole_ids_at_60_columns(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`types NAME` prints no JSON, and wraps no id even at 60 columns."""
    monkeypatch.setenv("COLUMNS", "60")
    lines = run("types", "enrich_account").stdout.splitlines()

    long = [line for line in lines if len(line) > 60]
    assert [line for line in long if len(line[18:].split()) > 1] == []
    assert not any("{" in line or "[" in line for line in lines)


def test_without_a_stack_it_says_what_to_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A command without a running stack prints the command that starts one."""
    for name in ("MINUTEHAND_ENV_FILE", "SUPABASE_URL", "API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MINUTEHAND_PROJECT", str(tmp_path))

    assert "minutehand dev" in Run()("ls", code=1).stderr


@pytest.mark.weekly(only=True)
def test_status_names_a_session_that_lets_no_one_read_jobs(stack: RunningStack, run: Run) -> None:
    """The statistics cannot be read then, so the problem is printed before."""
    with stack.connect() as locker, locker.transaction():
        locker.execute("lock table jobs in access exclusive mode")
        time.sleep(11)  # a shorter lock is no problem
        shown = run("status", code=1).stdout

    assert "has locked the table public.jobs" in " ".join(shown.split())
