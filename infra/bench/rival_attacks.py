"""What a rival tenant does inside its limits to slow everyone down, as requests of the Data API.

Each attack is a generator that yields a function's name with its arguments and is sent the answer,
so that a test can play it over one connection and a bench over HTTP. Several requests at once are a
list.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

Request = tuple[str, dict[str, Any]]
#: A list is sent at once; its answers are no one's.
Play = Generator[Request | list[Request], Any, None]
Attack = Callable[[Random, str, str, int], Play]

SEALED = "mh1.a2V5.d3JhcHBlZA==.Ym9keQ=="


def _bulk(workspace: str, jobs: list[dict[str, Any]]) -> Request:
    return "enqueue_jobs", {"p_workspace_id": workspace, "p_jobs": jobs, "p_return": "ids"}


def flood(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """A backlog at the highest priority."""
    for _ in range(max(1, size // 500)):
        yield _bulk(workspace, [{"job_type": job_type, "priority": 0}] * 500)


def many_keys(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """A partition for each job."""
    for _ in range(max(1, size // 500)):
        keys = [rng.randbytes(12).hex() for _ in range(500)]
        yield _bulk(workspace, [{"job_type": job_type, "concurrency_key": key} for key in keys])


def paused_backlog(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """Jobs of a type that the rival itself has paused."""
    paused = {"kind": "workspace_type", "name": job_type, "workspace_id": workspace}
    yield "pause_jobs", {"p_request": paused}
    yield from many_keys(rng, workspace, job_type, size)
    if rng.random() < 0.5:
        yield "pause_jobs", {"p_request": {**paused, "paused": False}}


def one_instant(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """All due at once."""
    at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    for _ in range(max(1, size // 500)):
        yield _bulk(workspace, [{"job_type": job_type, "scheduled_for": at}] * 500)


def minute_schedules(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """Schedules of every minute."""
    for number in range(min(150, size // 10)):
        schedule = {"name": f"s{number}", "cron": "* * * * *", "job_type": job_type}
        yield "put_schedule", {"p_workspace_id": workspace, "p_schedule": schedule}


def after_lists(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """Jobs that each run after a hundred others, which are then cancelled one by one."""
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    before = yield _bulk(workspace, [{"job_type": job_type, "scheduled_for": later}] * 100)
    waiting = {"job_type": job_type, "after": before["ids"], "after_failed": "cancel"}
    yield _bulk(workspace, [waiting] * min(200, size // 10))
    for job_id in before["ids"][:20]:
        yield "cancel_job", {"p_job_id": job_id}


def webhooks(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """Fifty endpoints that hear of everything."""
    for number in range(50):
        webhook = {"url": f"https://{number}.example.com/", "sealed_secret": SEALED}
        yield "put_webhook", {"p_workspace_id": workspace, "p_webhook": webhook}
    yield _bulk(workspace, [{"job_type": job_type}] * 20)


def events(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """Large events that no one waits for."""
    payload = {"text": "x" * 200_000}
    for number in range(20):
        event = {"p_name": f"{rng.random()}-{number}", "p_payload": payload}
        yield "emit_event", {"p_workspace_id": workspace, **event}


def large_payloads(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """A megabyte at a time."""
    text = {"text": "y" * 100_000}
    for _ in range(10):
        yield _bulk(workspace, [{"job_type": job_type, "payload": text}] * 5)


def unique_and_batches(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """One key fought over, and batches that are never closed."""
    for _ in range(30):
        made = yield "create_batch", {"p_workspace_id": workspace}
        job = {"job_type": job_type, "batch_id": made["batch_id"]}
        unique = {"key": "k", "on_conflict": "replace"}
        yield _bulk(workspace, [{**job, "unique": unique}] * 5 + [job] * 20)


def changes_of_mind(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """Limits, pauses, cancels and retries in a loop."""
    own = {"p_workspace_id": workspace}
    for _ in range(15):
        limit = rng.choice([None, 0, 1, 3])
        yield "set_workspace_limits", {**own, "p_limits": {"own_max_running": limit}}
        yield _bulk(workspace, [{"job_type": job_type, "priority": rng.randrange(1000)}] * 50)
        for action in ("cancel", "retry"):
            request = {"action": action, "limit": 100, "filter": {"job_type": job_type}}
            yield "create_operation", {**own, "p_request": request}
    yield "set_workspace_limits", {**own, "p_limits": {"own_max_running": None}}


def reads(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """Every list and count, as fast as they answer."""
    for _ in range(20):
        search = {"workspace_id": workspace, "search": rng.randbytes(4).hex()}
        yield "list_jobs", {"p_filter": search, "p_limit": 200}
        yield "queue_stats", {"p_workspace_id": workspace, "p_minutes": 11_520}
        yield "event_feed", {"p_workspace_id": workspace, "p_cursor": None, "p_limit": 500}


def made_up_followers(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """Each counts as a delivery of every message to its topic; then jobs in all of these topics."""
    jobs = [{"job_type": job_type, "session_id": f"followed-{number}"} for number in range(30)]
    yield _bulk(workspace, jobs)
    for number in range(600):
        follower = str(UUID(int=rng.getrandbits(128)))
        topic = f"session:followed-{number % 30}"
        yield "follow_topic", {"p_topic": topic, "p_follower_id": follower}
    for _ in range(20):
        yield _bulk(workspace, jobs)


def parallel_reads(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """Twenty-four at once of each read."""
    made = yield _bulk(workspace, [{"job_type": job_type}] * min(500, size))
    own = {"p_workspace_id": workspace}
    job = {"p_job_id": made["ids"][0]}
    reads: list[Request] = [
        ("dead_letters", own), ("job_trace", job), ("job_attempts", job), ("explain_job", job),
        ("workspace_limits", own), ("list_job_types", own), ("count_jobs", own),
        ("queue_stats", {**own, "p_minutes": 11_520}),
        ("queue_series", {**own, "p_minutes": 11_520}),
        ("sort_jobs", {"p_filter": {"workspace_id": workspace}, "p_by": "run_ms"}),
        ("search_logs", {**own, "p_filter": {"search": "none"}}),
        ("event_feed", {**own, "p_cursor": None, "p_limit": 500}),
    ]  # fmt: skip
    for read in reads:
        yield [read] * 24


def compressed_searches(rng: Random, workspace: str, job_type: str, size: int) -> Play:
    """Searches over payloads that are small on the disk alone."""
    job = {"job_type": job_type, "payload": {"text": "z" * 250_000}}
    for _ in range(min(30, size // 50)):
        yield _bulk(workspace, [job] * 3)
    for _ in range(3):
        search = {"workspace_id": workspace, "search": rng.randbytes(4).hex()}
        yield [("list_jobs", {"p_filter": search}), ("sort_jobs", {"p_filter": search})] * 6


ATTACKS: Mapping[str, Attack] = {
    attack.__name__: attack
    for attack in (
        flood, many_keys, paused_backlog, one_instant, minute_schedules, after_lists, webhooks,
        events, large_payloads, unique_and_batches, changes_of_mind, reads, made_up_followers,
        parallel_reads, compressed_searches,
    )
}  # fmt: skip


def mix(seed: int, names: Sequence[str] = tuple(sorted(ATTACKS)), count: int = 5) -> list[Attack]:
    """So many different attacks of these, in an order of their own."""
    return [ATTACKS[name] for name in Random(seed).sample(names, min(count, len(names)))]
