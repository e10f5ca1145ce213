# ruff: noqa: E501 - queries stay on one line
"""Numbers over time: which points, of whom, without internal types, and what depth follows."""

from __future__ import annotations

import psycopg
import pytest

from tests.support.engine import ACME, ADA, GLOBEX, Engine, refusal


def run_some(engine: Engine, count: int, *, workspace: str = ACME) -> None:
    """Enqueue and complete jobs."""
    engine.enqueue_many(count, workspace=workspace)
    engine.run_all(duration_ms=250)


def test_counts_and_times_come_per_type_and_point(engine: Engine) -> None:
    """What a chart draws, and what is live now."""
    run_some(engine, 3)
    engine.enqueue()
    with engine.member(ADA) as ada:
        series = ada.rpc("queue_series", p_workspace_id=ACME)

    points = series["points"]
    assert (series["step_seconds"], series["live"]) == (60, 1)
    assert sum(point["enqueued"] for point in points) == 4
    assert sum(point["completed"] for point in points) == 3
    assert 200 < max(point["run_p95_ms"] or 0 for point in points) < 320


def test_costs_add_up_over_a_minute(engine: Engine) -> None:
    """However often what was counted is added to it meanwhile."""
    engine.stop_clock()
    for _ in range(2):
        engine.enqueue()
        engine.settle(engine.lease_one(), cost_usd=0.25)
        engine.run("select queue.roll_up(queue.clock())")

    assert engine.rpc("queue_stats")["types"]["work"]["cost_usd"] == 0.5
    assert engine.rows("select jobs from queue.stat_hours where outcome = 'completed'") == [2]


def test_a_workspace_sees_its_own_only(engine: Engine) -> None:
    """Another tenant's numbers are not in it; what is live is counted in each state."""
    run_some(engine, 3, workspace=GLOBEX)
    with engine.member(ADA) as ada:
        for minutes in (60, 10_080):
            engine.run("select queue.roll_up(queue.clock())")
            found = ada.rpc("queue_series", p_workspace_id=ACME, p_minutes=minutes)
            assert found["points"] == []
    for workspace in (ACME, GLOBEX):
        engine.enqueue_many(3, workspace=workspace)
    for lease in {one["job"]["workspace_id"]: one for one in engine.lease()}.values():
        wait = {"kind": "sleep", "name": "nap", "until": "2199-01-01T00:00:00Z"}
        engine.settle(lease, "waiting", wait=wait)
    for workspace in (ACME, GLOBEX):
        engine.enqueue(workspace=workspace)
        engine.enqueue(workspace=workspace, delay_seconds=60)

    live = [engine.rpc("queue_series", p_workspace_id=of)["live"] for of in (ACME, None)]
    assert live == [5, 10]
    with engine.member(ADA) as ada, pytest.raises(psycopg.Error) as refused:
        ada.rpc("queue_series", p_workspace_id=GLOBEX)
    assert refusal(refused.value)[:2] == ("PT404", "workspace_not_found")


@pytest.mark.parametrize(
    ("minutes", "step"),
    [(15, 60), (60, 60), (360, 300), (1440, 900), (10080, 7200), (43200, 21600)],
)
def test_every_range_has_about_a_hundred_points(engine: Engine, minutes: int, step: int) -> None:
    """From a quarter of an hour to thirty days, also after the deltas were rolled up."""
    run_some(engine, 2)
    engine.run("select queue.roll_up(queue.clock())")
    series = engine.rpc("queue_series", p_workspace_id=ACME, p_minutes=minutes)

    assert series["step_seconds"] == step
    assert minutes * 60 / step <= 120
    assert sum(point["completed"] for point in series["points"]) == 2


COUNT = "insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs) values (queue.clock(), 'work', %s, %s, %s)"


def test_what_was_rolled_up_twice_is_counted_once(engine: Engine) -> None:
    """Minutes and hours are added to, not replaced, and nothing is in both."""
    engine.stop_clock()
    for _ in range(3):
        engine.run(COUNT, ACME, "completed", 2)
        engine.run("select queue.roll_up(queue.clock())")

    for minutes in (60, 10080):
        series = engine.rpc("queue_series", p_workspace_id=ACME, p_minutes=minutes)
        assert sum(point["completed"] for point in series["points"]) == 6
    assert engine.one("select sum(jobs) from queue.type_minutes") == 6
    assert engine.one("select count(*) from queue.stat_deltas") == 0


def test_each_outcome_is_counted_by_its_name(engine: Engine) -> None:
    """Of a workspace and of all, before and after the roll-up."""
    names = ("completed", "failed", "cancelled", "retried", "lost", "enqueued", "redriven")
    outcomes = (*names[:3], "retry", *names[4:])
    for workspace in (ACME, GLOBEX):
        for jobs, outcome in enumerate(outcomes):
            engine.run(COUNT, workspace, outcome, jobs + 1)
    for _ in range(2):
        for asked, times in ((ACME, 1), (None, 2)):
            stats = engine.rpc("queue_stats", p_workspace_id=asked)
            counts = [stats["types"]["work"][name] for name in names[:6]]
            of_all = [stats[name] is not None for name in ("workers", "limits", "messages")]
            assert of_all == [asked is None] * 3
            assert counts == [times * (n + 1) for n in range(6)]
            [point] = engine.rpc("queue_series", p_workspace_id=asked)["points"]
            assert [point[name] for name in names] == [times * (n + 1) for n in range(7)]
            assert [[point[name] for name in ("completed", "failed", "enqueued")] for point in stats["throughput"]] == [[times, 2 * times, 6 * times]]  # fmt: skip
        engine.run("select queue.roll_up(queue.clock())")
    runs = "select sum(jobs) from queue.type_minutes"
    assert engine.one(runs) == 2 * (1 + 2 + 4), "of what completed, failed or is retried"


def test_percentiles_are_those_of_the_histogram(engine: Engine) -> None:
    """The middle of a bucket that is a quarter wider than the one before."""
    found = engine.one('select queue.percentiles(\'{"0": 50, "10": 45, "9": 0, "20": 5}\')')

    assert found == {
        f"p{part}_ms": round(1.25 ** (bucket + 0.5) - 1, 1)
        for part, bucket in ((50, 0), (95, 10), (99, 20))
    }


def test_a_type_has_a_run_time_from_twenty_runs_on(engine: Engine) -> None:
    """That which nineteen of twenty stay below."""
    add = "insert into queue.type_minutes values (date_trunc('minute', queue.clock()) + make_interval(mins => %s), 'work', %s, %s)"
    known = []
    for minute, bucket, jobs in ((0, 5, 18), (0, 9, 1), (1, 9, 1)):
        engine.run(add, minute, bucket, jobs)
        engine.run("select queue.roll_up(queue.clock())")
        known.append(engine.one("select run_p95_ms from queue.job_types where job_type = 'work'"))

    assert known == [None, None, pytest.approx(1.25**10 - 1)]


def test_internal_types_are_left_out_unless_asked_for(engine: Engine) -> None:
    """Deliveries of webhooks are no work of a workspace."""
    engine.run(COUNT.replace("'work'", "'webhook_delivery'"), ACME, "completed", 5)

    assert engine.rpc("queue_series", p_workspace_id=ACME)["points"] == []
    [point] = engine.rpc("queue_series", p_workspace_id=ACME, p_internal=True)["points"]
    counted = {name: value for name, value in point.items() if value == 0 or name == "completed"}
    others = ("enqueued", "failed", "cancelled", "retried", "lost", "redriven")
    assert counted == {"completed": 5, **dict.fromkeys(others, 0)}
    engine.run(COUNT, ACME, "failed", 1)
    both = engine.rpc("queue_series", p_workspace_id=ACME, p_internal=True)["points"]
    found = [(one["job_type"], one["completed"]) for one in both]
    assert found == [("webhook_delivery", 5), ("work", 0)]


def test_hours_are_kept_for_a_month(engine: Engine) -> None:
    """Maintenance removes what is older than any range, and nothing younger."""
    run_some(engine, 1)
    engine.run("select queue.roll_up(queue.clock())")
    engine.run("update queue.stat_hours set hour = hour - interval '30 days'")
    engine.run("select queue.prune(100, queue.clock())")
    assert engine.one("select count(*) from queue.stat_hours") > 0

    engine.run("update queue.stat_hours set hour = hour - interval '2 days'")
    engine.run("select queue.prune(100, queue.clock())")

    assert engine.one("select count(*) from queue.stat_hours") == 0
