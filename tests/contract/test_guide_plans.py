"""The guide to the event streams of plans: each printed command and snippet is run."""

import json
import math
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.contract.guide import Json, bash, in_threads
from tests.support.patience import until
from tests.support.stacks import RunningStack

ENDS = {"plan_completed", "plan_failed", "plan_cancelled", "plan_deleted"}
#: The guide creates a hundred plans in each thread. `make weekly` creates as many plans, and `make
#: test` creates fewer.
WEEKLY = "WEEKLY" in os.environ


@pytest.fixture
def base(stack: RunningStack) -> str:
    """The API's base address, which replaces the guide's http://localhost:8080."""
    return stack.api_url


def create(base: str, prompt: str = "Test plan") -> str:
    """Create a plan with `POST /api/plans`, as the guide's scripts do. Return the plan's id."""
    body = {"prompt": prompt, "speed_vs_detail": "fast_but_skip_details"}
    answer = httpx.post(f"{base}/api/plans", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()["plan_id"]


def events(base: str, plan_id: str, *, after: int = 0) -> Iterator[Json]:
    """Yield the events that a browser's EventSource passes to `onmessage`. End with the stream."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(after)} if after else {})
    url = f"{base}/api/plans/{plan_id}/stream"
    with httpx.stream("GET", url, headers=headers) as stream:
        assert stream.status_code == 200
        for line in stream.iter_lines():
            assert not line.startswith("event:")  # `onmessage` gets unnamed events only
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def is_whole(response: list[Json]) -> bool:
    """Check that events are numbered from 1 without a gap and end with the plan's last event."""
    return [each["seq"] for each in response] == list(range(1, len(response) + 1)) and (
        response[-1]["type"] in ENDS
    )


def test_1_1_to_1_3_single_client(base: str) -> None:
    """The guide's curl command creates a plan. The plan's event stream is ready immediately.

    It reports the start and the completion of each of the plan's eight stages.
    """
    command = """curl -X POST http://localhost:8080/api/plans \\
  -H "Content-Type: application/json" \\
  -d '{"prompt": "Create a simple marketing plan for a local bakery", \
"speed_vs_detail": "fast_but_skip_details"}'"""
    plan = json.loads(bash(command.replace("http://localhost:8080", base)))
    readiness = httpx.get(f"{base}/api/plans/{plan['plan_id']}/stream-status").json()

    assert set(plan) >= {"plan_id", "status", "created_at", "stream_url"}
    assert readiness == {"status": "ready", "ready": True}
    response = list(events(base, plan["plan_id"]))
    assert is_whole(response)
    assert response[-1]["type"] == "plan_completed"
    assert {each["plan_id"] for each in response} == {plan["plan_id"]}
    assert all({"seq", "type", "data", "at"} <= set(each) for each in response)
    started = [each["data"]["stage"] for each in response if each["type"] == "stage_started"]
    done = [each["data"]["stage"] for each in response if each["type"] == "stage_completed"]
    assert len(started) == 8
    assert sorted(started) == sorted(done)
    assert all(each["data"]["message"] for each in response if each["type"] == "stage_started")


def test_2_1_multiple_clients(base: str) -> None:
    plan_id = create(base)
    seen = in_threads(5, lambda _: list(events(base, plan_id)))

    assert is_whole(seen[0])
    assert all(each == seen[0] for each in seen)


def test_2_2_drop_and_reconnect(base: str) -> None:
    """A client that reconnects with `Last-Event-ID` gets only later events.

    A new client gets all events. A client that reconnects after a plan's last event gets 204.
    """
    plan_id = create(base)
    first: list[Json] = []
    for event in events(base, plan_id):
        first.append(event)
        if len(first) == 3:
            break  # close the stream, as a network failure would
    rest = list(events(base, plan_id, after=3))

    assert is_whole(first + rest)
    assert list(events(base, plan_id)) == first + rest
    url = f"{base}/api/plans/{plan_id}/stream"
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(len(first + rest))}
    assert httpx.get(url, headers=headers).status_code == 204


def test_2_3_and_3_2_rapid_creation_and_deletion_while_reading(base: str) -> None:
    """Ten plans are deleted while clients read their streams.

    Each stream ends with the plan's completion or deletion.
    """

    def one(number: int) -> tuple[str, list[Json]]:
        plan_id = create(base, f"Test plan {number}")
        response: list[Json] = []
        reader = threading.Thread(target=lambda: response.extend(events(base, plan_id)))
        reader.start()
        until(lambda: response)  # a plan deleted before this first event would send none
        time.sleep(random.random() * 2)
        deleted = httpx.delete(f"{base}/api/plans/{plan_id}")
        assert deleted.status_code == 204, deleted.text
        reader.join(60)
        assert not reader.is_alive()
        return plan_id, response

    for plan_id, response in in_threads(10, one):
        assert is_whole(response)
        assert response[-1]["type"] in {"plan_completed", "plan_deleted"}
        assert httpx.get(f"{base}/api/plans/{plan_id}").status_code == 404


@pytest.mark.weekly
def test_3_1_concurrent_access(base: str) -> None:
    """Ten threads create plans and abandon their streams. The API stays healthy."""

    def worker(_: int) -> int:
        made = 0
        for i in range(100 if WEEKLY else 4):
            plan_id = create(base, f"Test plan {i}")
            made += 1
            url = f"{base}/api/plans/{plan_id}/stream"
            with suppress(httpx.TimeoutException), httpx.stream("GET", url, timeout=1) as stream:
                assert stream.status_code == 200
        return made

    assert sum(in_threads(10, worker)) == (1000 if WEEKLY else 40)
    assert httpx.get(f"{base}/api/v1/health").status_code == 200


@pytest.mark.weekly
def test_4_2_memory_and_4_3_scaling(base: str, stack: RunningStack) -> None:
    launcher = psutil.Process(stack.launcher.pid)

    def used() -> float:
        found = 0.0
        for child in launcher.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # a process may have ended since it was listed
                found += child.memory_info().rss if "python" in child.name() else 0
        return found / 1024**2

    def create_and_monitor(number: int) -> list[Json]:
        return list(events(base, create(base, f"Plan {number}")))

    before = math.inf
    for plans in (1, 5, 10, 50, 20) if WEEKLY else (3, 6):
        seen = in_threads(plans, create_and_monitor)
        assert all(is_whole(each) and each[-1]["type"] == "plan_completed" for each in seen)
        assert used() < before + 80
        before = used()


def test_a_partial_report_is_delivered(base: str) -> None:
    """A plan that a user cancelled still has a report. The report says that it is partial."""
    plan_id = create(base)
    httpx.post(f"{base}/api/plans/{plan_id}/cancel")
    # A running processor learns of the cancellation from the response to its next report.
    last = list(events(base, plan_id))[-1]["type"]
    report = httpx.get(f"{base}/api/plans/{plan_id}/report")

    assert report.status_code == 200
    assert ("This report is partial" in report.text) == (last == "plan_cancelled")
