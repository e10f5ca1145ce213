"""Finding and changing jobs in a terminal: states, types, one job whole, many at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import Result

from minutehand.cli.scaffold import published
from tests.e2e.console.worker import HandWorker
from tests.support.command import Run
from tests.support.stacks import RunningStack


@pytest.fixture
def worker(stack: RunningStack) -> Iterator[HandWorker]:
    """A worker in the test's hand, which alone serves its type."""
    with HandWorker(stack, stack.demo_workspace_id) as made:
        yield made


def as_json(result: Result) -> Any:
    return json.loads(result.stdout)


def test_a_list_says_what_people_look_for(run: Run, worker: HandWorker) -> None:
    """In which state, and when it runs next; in the words of the page."""
    kind = worker.job_type
    later = as_json(run("enqueue", kind, "{}", "--in", "2h", "--tag", "blue", "--json"))
    sooner = as_json(run("enqueue", kind, '{"month": "2026-01"}', "--in", "1h", "--json"))

    table = run("ls", "-t", kind, "--state", "scheduled").stdout
    assert "NEXT RUN" in table
    assert "in 2 h" in table
    found = as_json(
        run("ls", "-t", kind, "--state", "scheduled", "--sort", "next_run_at", "--asc", "--json")
    )
    assert [job["id"] for job in found] == [sooner["id"], later["id"]]
    assert [job["id"] for job in as_json(run("ls", "--tag", "blue", "-t", kind, "--json"))] == [
        later["id"]
    ]
    by_field = as_json(run("ls", "-t", kind, "--payload", "month=2026-01", "--json"))
    assert [job["id"] for job in by_field] == [sooner["id"]]
    assert as_json(run("ls", "-t", kind, "--since", "15m", "--state", "queued", "--json")) == []


def test_jobs_are_counted_by_state(run: Run, worker: HandWorker) -> None:
    """In the words of the list; a filter that counts do not know is not ignored."""
    kind = worker.job_type
    worker.enqueue_many([{}, {}, {"delay_seconds": 3600}])
    worker.run()

    told = as_json(run("ls", "--count", "-t", kind, "--json"))
    table = run("ls", "--count", "-t", kind).stdout
    refused = json.loads(run("ls", "--count", "--tag", "x", "--json", code=1).stderr)

    assert {name: n for name, n in told["states"].items() if n} == {
        "queued": 1,
        "scheduled": 1,
        "completed": 1,
    }
    assert told["at_least"] == []
    assert [line.split() for line in table.splitlines()][1] == ["queued", "1"]
    assert refused["code"] == "bad_usage"


def test_a_trace_shows_where_the_time_went(run: Run, worker: HandWorker) -> None:
    """A failed attempt, a wait and a child, each on its line, however narrow the terminal."""
    job_id = worker.enqueue()
    worker.settle(
        worker.lease()[0], "retry", error={"type": "Boom", "message": "no"}, retry_after_seconds=0
    )
    worker.spawn(worker.lease_soon(), 1)

    trace = as_json(run("show", job_id, "--trace", "--json"))
    lines = run("show", job_id, "--trace").stdout.splitlines()

    assert [job["parent_id"] for job in trace["jobs"]] == [None, job_id]
    names = [worker.job_type, "attempt", "attempt", worker.job_type]
    assert [line.split()[0] for line in lines] == names
    assert ["retry" in lines[1], "running" in lines[2], "queued" in lines[3]] == [True] * 3
    assert all("+" in line for line in lines)


def test_one_job_is_shown_whole(run: Run, worker: HandWorker) -> None:
    """Attempts with the line at fault, steps, children, log: no second command is needed."""
    job_id = worker.enqueue()
    lease = worker.lease()[0]
    frame = {"file": "app/bills.py", "line": 41, "function": "bill", "code": "rates[key]"}
    frames = [{**frame, "own": True}]
    error = {"type": "KeyError", "message": "no rate", "traceback": {"frames": frames}}
    worker.settle(lease, "retry", error=error, retry_after_seconds=0)
    worker.settle(worker.lease()[0], "completed", result={"paid": True})

    shown = run("show", job_id).stdout
    assert "app/bills.py:41 in bill" in shown
    assert "rates[key]" in shown
    assert "no rate" in shown
    assert "ran in 2 runs" in shown
    assert '{"paid": true}' in shown
    details = as_json(run("show", job_id, "--json"))["details"]
    assert [attempt["outcome"] for attempt in details["attempts"]] == ["retry", "completed"]
    assert set(details) == {"attempts", "steps", "more_steps", "waiting_for", "children", "logs"}


def test_types_are_listed_and_one_is_shown_whole(run: Run, worker: HandWorker) -> None:
    """What exists, and who serves it."""
    worker.enqueue()
    worker.settle(worker.lease()[0], "completed")

    [line] = [t for t in as_json(run("types", "--json")) if t["job_type"] == worker.job_type]
    assert (line["served"], line["day"]["completed"]) == (True, 1)
    assert worker.job_type in run("types").stdout
    assert "max_attempts" in run("types", worker.job_type).stdout
    typo = json.loads(run("types", f"{worker.job_type}x", "--json", code=1).stderr)
    assert typo["code"] == "unknown_job_type"
    assert f"did you mean {worker.job_type}?" in typo["error"]


def test_many_jobs_are_cancelled_after_their_number_is_told(run: Run, worker: HandWorker) -> None:
    """A typo in a filter is seen before it is done."""
    kind = worker.job_type
    for state in ("1h", "1h", None):
        run("enqueue", kind, "{}", *(("--in", state) if state else ()))

    refused = json.loads(run("cancel", "--type", kind, "--json", code=1).stderr)
    assert refused["code"] == "not_confirmed"
    assert refused["error"].startswith("3 live jobs match")
    some = as_json(run("cancel", "--type", kind, "--state", "scheduled", "--yes", "--json"))
    assert some == {"count": 2, "more": False}
    rest = as_json(run("cancel", "--type", kind, "--yes", "--json"))
    assert rest["count"] == 1
    assert "no live job matches" in run("cancel", "--type", kind).stdout


def test_cancel_without_an_id_or_a_criterion_changes_nothing(run: Run) -> None:
    """Everything is never meant."""
    told = json.loads(run("cancel", "--json", code=1).stderr)
    assert told["code"] == "bad_usage"


@pytest.mark.parametrize(
    "arguments",
    [["show", "12", "--json"], ["ls", "--nope", "--json"], ["nothing", "--json"],
     ["ls", "--state", "quiet", "--json"], ["show", "--json"]],
)  # fmt: skip
def test_with_json_a_wrong_command_line_is_json_too(run: Run, arguments: list[str]) -> None:
    """A script reads one form of failure."""
    told = json.loads(run(*arguments, code=2).stderr)

    assert set(told) == {"error", "code", "fix"}
    assert told["code"] == "usage"


def test_a_pipe_honours_columns(
    run: Run, worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `COLUMNS=60 minutehand ls | less` asks for."""
    worker.enqueue()
    worker.settle(worker.lease()[0], "failed", error={"type": "E", "message": "word " * 50})
    monkeypatch.setenv("COLUMNS", "70")

    lines = run("ls", "-t", worker.job_type).stdout.splitlines()

    assert len(lines) == 2
    assert max(len(line.rstrip()) for line in lines) <= 70


def test_an_enqueue_waits_for_a_type_that_is_being_published(
    run: Run, stack: RunningStack, worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the save of a processor and its first run pass a second or two."""
    late = f"{worker.job_type}_late"

    def publish(_: float) -> None:
        with stack.connect() as connection:
            connection.execute(
                "select public.register_job_types(jsonb_build_array(jsonb_build_object("
                "'job_type', %s::text)))",
                [late],
            )

    # while it waits, whenever that is
    waiting = SimpleNamespace(monotonic=time.monotonic, sleep=publish)
    monkeypatch.setattr("minutehand.cli.jobs.time", waiting)
    result = run("enqueue", late, "--in", "1h")

    assert "waiting for the local worker to publish" in result.stderr
    assert result.stdout.strip().endswith("scheduled")
    run("cancel", "--type", late, "--yes")


def test_init_knows_whether_the_running_stack_has_the_type(
    stack: RunningStack, worker: HandWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not say that it is found when it is not, nor wait where nothing runs."""
    monkeypatch.setattr("minutehand.cli.scaffold.PATIENCE_SECONDS", 1.0)
    assert published(tmp_path, worker.job_type) is None
    (tmp_path / ".local").mkdir()
    env = tmp_path / ".local" / "env"
    env.write_text((stack.folder / "env").read_text())
    assert published(tmp_path, worker.job_type) is True
    assert published(tmp_path, "nothing.of_that_name") is False
    env.write_text(env.read_text().replace(stack.api_url, "http://127.0.0.1:9"))
    began = time.monotonic()
    assert published(tmp_path, worker.job_type) is None
    assert time.monotonic() >= began


def test_a_job_is_shown_with_the_steps_of_every_page(run: Run, worker: HandWorker) -> None:
    """A page holds about 1 MB; what a terminal shows must not end there unsaid."""
    job_id = worker.enqueue()
    lease = worker.lease_soon()
    names = [f"step {n}" for n in range(5)]
    worker.report(lease, steps=[{"name": name, "result": "x" * 400_000} for name in names])

    details = as_json(run("show", job_id, "--json"))["details"]

    assert [step["name"] for step in details["steps"]] == names
    assert details["more_steps"] is False
    worker.settle(lease)
