"""The provider client against servers that speak oddly, the choice by health, and the settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from minutehand.config import ConfigurationError
from minutehand.worker.remote import RemoteFailed
from minutehand_apps.beacon.executing import by_health
from minutehand_apps.beacon.health import judge
from minutehand_apps.beacon.models import ExecutionRow, JobSpec, ProviderHealth
from minutehand_apps.beacon.provider_client import MAX_ANSWER_BYTES, AtProvider, connections
from minutehand_apps.beacon.settings import BeaconSettings, Provider
from tests.unit.beacon.signed import SPEC

PROVIDER = Provider(name="alpha", url="https://alpha.example", regions=("eu",), token="t0k")
EXECUTION = ExecutionRow(id=UUID(int=7), region="eu", model="default")
NOW = datetime(2026, 11, 20, tzinfo=UTC)


def client(answer: Callable[[httpx.Request], httpx.Response]) -> AtProvider:
    http = connections(httpx.MockTransport(answer))
    return AtProvider(http, PROVIDER, EXECUTION, JobSpec.model_validate(SPEC))


async def test_a_submission_carries_the_questions_and_its_key() -> None:
    """The protocol as the README has it."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, json={"task_id": "t-1", "status": "accepted"})

    task_id = await client(answer).submit(left=60)

    [request] = seen
    body: dict[str, Any] = json.loads(request.content)
    assert task_id == "t-1"
    assert request.headers["authorization"] == "Bearer t0k"
    assert request.headers["idempotency-key"] == str(EXECUTION.id)
    assert [each["question_id"] for each in body["questions"]] == ["q1", "m"]
    assert (body["region"], body["benchmark"]["name"]) == ("eu", "trivia")


def raising(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda _: httpx.Response(503), "answered with status 503"),
        (lambda _: httpx.Response(302, headers={"location": "http://10.0.0.1/"}), "status 302"),
        (lambda _: httpx.Response(200, text="<html>"), "must answer with a JSON object"),
        (lambda _: httpx.Response(200, text="[" * 100_000), "must answer with a JSON object"),
        (lambda _: httpx.Response(200, json=[]), "must answer with a JSON object"),
        (lambda _: httpx.Response(200, json={"task_id": "../x", "status": "running"}), "task_id"),
        (lambda _: httpx.Response(200, json={"task_id": "t", "status": "fine"}), "status"),
        (lambda _: httpx.Response(200, content=b" " * (MAX_ANSWER_BYTES + 1)), "more than"),
        (raising(httpx.ReadTimeout("late")), "stopped responding"),
        (raising(httpx.ConnectError("refused")), "could not be reached"),
        (raising(httpx.RemoteProtocolError("cut")), "ended its answer early"),
    ],
)
async def test_every_odd_answer_is_a_failure_with_words(
    answer: Callable[[httpx.Request], httpx.Response], words: str
) -> None:
    """Never another exception, and never an address or a body of the provider's."""
    with pytest.raises(RemoteFailed, match="alpha") as failed:
        await client(answer).poll("t")

    assert words in str(failed.value)
    assert "alpha.example" not in str(failed.value)


def test_the_healthy_come_first_and_none_is_left_out() -> None:
    """Within each group in the order of the setting."""
    names = ["a", "b", "c", "d"]
    providers = [Provider(name=name, url="http://x", regions=("eu",)) for name in names]
    later, before = NOW + timedelta(seconds=5), NOW - timedelta(seconds=5)
    health = [
        ProviderHealth(provider="a", region="eu", failures=3, open_until=later),
        ProviderHealth(provider="c", region="eu", failures=9, open_until=before),
    ]

    assert [each.name for each in by_health(providers, health, now=NOW)] == ["b", "c", "d", "a"]


def test_providers_that_name_a_region_come_before_those_of_any() -> None:
    """And without the variable there is none."""
    settings = BeaconSettings.from_env(
        {
            "BEACON_PROVIDERS": '[{"name": "a", "url": "http://a", "regions": ["*"]},'
            '{"name": "b", "url": "http://b/", "regions": ["eu", "*"]}]'
        }
    )

    assert [each.name for each in settings.serving("eu")] == ["b", "a"]
    assert [each.name for each in settings.serving("us")] == ["a", "b"]
    assert BeaconSettings.from_env({}).serving("eu") == []


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '[{"name": "a"}]',
        '[{"name": "a", "url": "ftp://a", "regions": ["eu"]}]',
        '[{"name": "a", "url": "http://a", "regions": []}]',
        '[{"name": "a", "url": "http://a", "regions": ["x"]},'
        ' {"name": "a", "url": "http://b", "regions": ["x"]}]',
    ],
)
def test_a_malformed_setting_names_its_variable(text: str) -> None:
    """At the start, not at the first job."""
    with pytest.raises(ConfigurationError, match="BEACON_PROVIDERS"):
        BeaconSettings.from_env({"BEACON_PROVIDERS": text})


def test_health_distinguishes_a_late_outbox_a_dead_one_and_an_unavailable_region() -> None:
    """A provider's outage degrades; only a publisher that is dead stops all work."""
    settings = BeaconSettings(
        providers=(
            Provider(name="a", url="http://a", regions=("eu", "us")),
            Provider(name="b", url="http://b", regions=("us", "*")),
        )
    )

    def health(oldest: float | None, *down: tuple[str, str]) -> dict[str, Any]:
        providers = [{"provider": p, "region": r, "open": True} for p, r in down]
        outbox = {"depth": 1, "oldest_seconds": oldest}
        return {"outbox": outbox, "dead": 0, "providers": providers}

    verdicts = [
        judge(health(age), settings)["outbox_oldest"]["verdict"] for age in (None, 5, 31, 301)
    ]
    ill = judge(health(None, ("a", "us")), settings)["providers"]
    away = judge(health(None, ("a", "eu"), ("b", "eu")), settings)["providers"]

    assert verdicts == ["pass", "pass", "warn", "fail"]
    assert (ill["verdict"], ill["detail"]) == ("warn", "a provider is down in us")
    assert (away["verdict"], away["value"]) == ("warn", 1)
    assert away["detail"] == "no provider answers in eu"
    assert away["regions"]["eu"] == {"a": "down", "b": "down"}
