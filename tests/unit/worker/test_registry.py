"""Which processor runs which type, and what is published about it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, Field

from minutehand.worker import (
    Backoff,
    Job,
    JobContext,
    PayloadRejected,
    RateLimit,
    Registry,
    UnknownProcessor,
)


class Account(BaseModel):
    """A payload with a rule."""

    account_id: str = Field(min_length=1)
    depth: int = 1


async def enrich(job: Job[Account], ctx: JobContext) -> None:
    """Do nothing."""


def test_the_decorator_gives_the_function_back() -> None:
    """It can still be called and tested like any other."""
    registry = Registry()

    assert registry.processor("enrich", payload=Account)(enrich) is enrich
    assert registry.get("enrich").is_async
    assert registry.names == ("enrich",)


def test_everything_said_is_published() -> None:
    registry = Registry()
    registry.processor(
        "enrich",
        payload=Account,
        queue="slow",
        max_concurrency=5,
        workspace_concurrency=2,
        key_concurrency=1,
        lease=timedelta(seconds=90),
        timeout=120.5,
        max_attempts=3,
        backoff=Backoff(first=1, cap=8),
        rate_limit=RateLimit(10, per=timedelta(minutes=1), per_key=True),
        version=2,
        events="minimal",
        live="states",
        ageing=timedelta(minutes=1),
        internal=True,
        signed=True,
        tagged_by=["account_id"],
        schedule="0 3 * * *",
    )(enrich)

    [spec] = registry.specs()

    wire = spec.wire()
    schema = wire.pop("payload_schema")
    assert wire == {
        "job_type": "enrich",
        "queue": "slow",
        "max_concurrency": 5,
        "workspace_concurrency": 2,
        "key_concurrency": 1,
        "lease_seconds": 90,
        "timeout_seconds": 121,
        "max_attempts": 3,
        "backoff": {"first_seconds": 1, "cap_seconds": 8, "factor": 2},
        "rate_limit": {"limit": 10, "per_seconds": 60, "per_key": True},
        "schema_version": 2,
        "events": "minimal",
        "live": "states",
        "ageing_seconds": 60,
        "internal": True,
        "signed": True,
        "tagged_by": ["account_id"],
        "source": "tests.unit.worker.test_registry:enrich",
        "description": "Do nothing.",
        "schedules": [
            {
                "name": "enrich",
                "cron": "0 3 * * *",
                "scope": "system",
                "workspace_id": None,
                "timezone": "UTC",
                "payload": {},
                "options": {},
                "missed": "once",
            }
        ],
    }
    assert schema["required"] == ["account_id"]


def test_a_misspelt_type_gets_a_suggestion() -> None:
    registry = Registry()
    registry.processor("enrich_account", payload=Account)(enrich)

    with pytest.raises(UnknownProcessor, match="Did you mean 'enrich_account'"):
        registry.get("enrich_acount")


@pytest.mark.parametrize(
    "wrong",
    [
        {"job_type": ""},
        {"job_type": "x" * 101},
        {"version": 0},
        {"version": 2, "upcasters": {2: dict}},
        {"max_concurrency": 0},
        {"max_attempts": 51},
    ],
)
def test_options_without_sense_are_refused_at_import(wrong: dict[str, Any]) -> None:
    options: dict[str, Any] = {"job_type": "enrich", **wrong}

    with pytest.raises(ValueError, match=r"enrich|name"):
        Registry().processor(options.pop("job_type"), payload=Account, **options)


def test_one_type_has_one_processor() -> None:
    registry = Registry()
    registry.processor("enrich", payload=Account)(enrich)

    with pytest.raises(ValueError, match="already"):
        registry.processor("enrich", payload=Account)


def test_a_payload_that_does_not_fit_says_where() -> None:
    registry = Registry()
    registry.processor("enrich", payload=Account)(enrich)

    with pytest.raises(PayloadRejected, match="account_id") as caught:
        registry.get("enrich").read_payload({"account_id": "", "depth": 2}, None)

    assert caught.value.problems[0]["path"] == ["account_id"]


def test_old_payloads_climb_version_by_version() -> None:
    registry = Registry()
    registry.processor(
        "enrich",
        payload=Account,
        version=3,
        upcasters={
            1: lambda old: {"id": old["account"]},
            2: lambda old: {"account_id": old["id"], "depth": 9},
        },
    )(enrich)
    kind = registry.get("enrich")

    assert kind.read_payload({"account": "a"}, 1) == Account(account_id="a", depth=9)
    assert kind.read_payload({"id": "b"}, 2) == Account(account_id="b", depth=9)
    assert kind.read_payload({"account_id": "c"}, 3) == Account(account_id="c")
    assert kind.read_payload({"account_id": "d"}, None) == Account(account_id="d")
    # counted up one by one, this would hold the whole worker for minutes
    assert kind.read_payload({"account": "e"}, -(2**31)) == Account(account_id="e", depth=9)


def test_a_payload_of_the_future_is_refused_with_advice() -> None:
    registry = Registry()
    registry.processor("enrich", payload=Account)(enrich)

    with pytest.raises(PayloadRejected, match="Deploy the worker"):
        registry.get("enrich").read_payload({"account_id": "a"}, 2)


def test_a_run_over_a_type_runs_its_parts_and_theirs() -> None:
    """Without them the whole would only wait."""
    registry = Registry()
    for name, whole in (("c", "b"), ("b", "a"), ("a", None), ("other", None), ("d", "other")):
        registry.processor(name, payload=Account, part_of=whole)(enrich)

    assert registry.with_parts(["a", "a"]) == ["a", "b", "c"]
    assert registry.with_parts(["b"]) == ["b", "c"]
