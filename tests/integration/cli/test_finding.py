"""Finding and changing jobs in a terminal: states, types, one job whole, many at once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from minutehand.cli.scaffold import published
from tests.e2e.console.worker import HandWorker, delete
from tests.support.command import Run
from tests.support.stacks import RunningStack


def test_a_list_says_what_people_look_for(run: Run, worker: HandWorker) -> None:
    """In which state, and when it runs next; in the words of the page."""
    kind = worker.job_type
    later = run.json("enqueue", kind, "{}", "--in", "2h", "--tag", "blue")
    sooner = run.json("enqueue", kind, '{"month": "2026-01"}', "--in", "1h")

    table = run("ls", "-t", kind, "--state", "scheduled").stdout
    assert "NEXT RUN" in table
    assert "in 2 h" in table
    found = run.json("ls", "-t", kind, "--state", "scheduled", "--sort", "next_run_at", "--asc")
    assert [job["id"] for job in found] == [sooner["id"], later["id"]]
    assert [job["id"] for job in run.json("ls", "--tag", "blue", "-t", kind)] == [later["id"]]
    by_field = run.json("ls", "-t", kind, "--payload", "month=2026-01")
    assert [job["id"] for job in by_field] == [sooner["id"]]
    assert run.json("ls", "-t", kind, "--since", "15m", "--state", "queued") == []


def test_jobs_are_counted_by_state(run: Run, worker: HandWorker) -> None:
    """In the words of the list; a filter that counts do not know is not ignored."""
    kind = worker.job_type
    worker.enqueue_many([{}, {}, {"delay_seconds": 3600}])
    worker.run()

    told = run.json("ls", "--count", "-t", kind)
    table = run("ls", "--count", "-t", kind).stdout
    refused = run.refused("ls", "--count", "--tag", "x")

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
        worker.lease_soon(), "retry", error={"type": "Boom", "message": "no"}, retry_after_seconds=0
    )
    worker.spawn(worker.lease_soon(), 1)

    trace = run.json("show", job_id, "--trace")
    lines = run("show", job_id, "--trace").stdout.splitlines()

    assert [job["parent_id"] for job in trace["jobs"]] == [None, job_id]
    names = [worker.job_type, "attempt", "attempt", worker.job_type]
    assert [line.split()[0] for line in lines] == names
    assert ["retry" in lines[1], "running" in lines[2], "queued" in lines[3]] == [True] * 3
    assert all("+" in line for line in lines)


def test_one_job_is_shown_whole(run: Run, worker: HandWorker) -> None:
    """Attempts with the line at fault, steps, children, log: no second command is needed."""
    job_id = worker.enqueue()
    lease = worker.lease_soon()
    frame = {"file": "app/bills.py", "line": 41, "function": "bill", "code": "rates[key]"}
    frames = [{**frame, "own": True}]
    error = {"type": "KeyError", "message": "no rate", "traceback": {"frames": frames}}
    worker.settle(lease, "retry", error=error, retry_after_seconds=0)
    worker.settle(worker.lease_soon(), "completed", result={"paid": True})

    shown = run("show", job_id).stdout
    assert "app/bills.py:41 in bill" in shown
    assert "rates[key]" in shown
    assert "no rate" in shown
    assert "ran in 2 runs" in shown
    assert '{"paid": true}' in shown
    details = run.json("show", job_id)["details"]
    assert [attempt["outcome"] for attempt in details["attempts"]] == ["retry", "completed"]
    assert set(details) == {"attempts", "steps", "more_steps", "waiting_for", "children", "logs"}


def test_types_are_listed_and_one_is_shown_whole(run: Run, worker: HandWorker) -> None:
    """What exists, and who serves it."""
    worker.enqueue()
    worker.settle(worker.lease_soon(), "completed")

    [line] = [t for t in run.json("types") if t["job_type"] == worker.job_type]
    assert (line["served"], line["day"]["completed"]) == (True, 1)
    assert worker.job_type in run("types").stdout
    assert "max_attempts" in run("types", worker.job_type).stdout
    typo = run.refused("types", f"{worker.job_type}x")
    assert typo["code"] == "unknown_job_type"
    assert f"did you mean {worker.job_type}?" in typo["error"]


def test_many_jobs_are_cancelled_once_it_is_confirmed(run: Run, worker: HandWorker) -> None:
    """Nothing is done without a yes."""
    kind = worker.job_type
    for state in ("1h", "1h", None):
        run("enqueue", kind, "{}", *(("--in", state) if state else ()))

    refused = run.refused("cancel", "--type", kind)
    assert refused["code"] == "not_confirmed"
    some = run.json("cancel", "--type", kind, "--state", "scheduled", "--yes")
    rest = run.json("cancel", "--type", kind, "--yes")
    assert (some, rest) == ({"count": 2, "more": False}, {"count": 1, "more": False})


def test_cancel_without_an_id_or_a_criterion_changes_nothing(run: Run) -> None:
    """Everything is never meant."""
    told = run.refused("cancel")
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
    assert "quiet" not in arguments or "completed" in told["error"]  # the states that there are


def test_a_pipe_honours_columns(
    run: Run, worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `COLUMNS=60 minutehand ls | less` asks for."""
    worker.enqueue()
    worker.settle(worker.lease_soon(), "failed", error={"type": "E", "message": "word " * 50})
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

    # while it waits, however long the first call took
    waiting = SimpleNamespace(monotonic=lambda: 0.0, sleep=publish)
    monkeypatch.setattr("minutehand.cli.jobs.time", waiting)
    result = run("enqueue", late, "--in", "1h")

    assert "waiting for the local worker to publish" in result.stderr
    assert result.stdout.strip().endswith("scheduled")
    for table in ("public.jobs", "queue.job_types"):
        delete(stack, f"delete from {table} where job_type = %s", late)


def test_init_knows_whether_the_running_stack_has_the_type(
    stack: RunningStack, worker: HandWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not say that it is found when it is not, nor wait where nothing runs."""
    assert published(tmp_path, worker.job_type) is None
    (tmp_path / ".local").mkdir()
    env = tmp_path / ".local" / "env"
    env.write_text((stack.folder / "env").read_text())
    assert published(tmp_path, worker.job_type) is True
    monkeypatch.setattr("minutehand.cli.scaffold.PATIENCE_SECONDS", 1.0)
    assert published(tmp_path, "nothing.of_that_name") is False
    env.write_text(env.read_text().replace(stack.api_url, "http://127.0.0.1:9"))
    assert published(tmp_path, worker.job_type) is None


def test_a_job_is_shown_with_the_steps_of_every_page(run: Run, worker: HandWorker) -> None:
    """A page holds about 1 MB; what a terminal shows must not end there unsaid."""
    job_id = worker.enqueue()
    lease = worker.lease_soon()
    names = [f"step {n}" for n in range(5)]
    worker.report(lease, steps=[{"name": name, "result": "x" * 400_000} for name in names])

    details = run.json("show", job_id)["details"]

    assert [step["name"] for step in details["steps"]] == names
    assert details["more_steps"] is False
    worker.settle(lease)
