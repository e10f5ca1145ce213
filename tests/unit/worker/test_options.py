"""An option of the wrong type is rejected where it is written, by its name and its job type."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel

from minutehand.worker import Backoff, RateLimit, Registry, Schedule, TickOptions, Worker
from minutehand.worker.registry import ProcessorOptions
from tests.support.queue_model import SETTINGS, ModelQueue, Row
from tests.support.virtual_time import LoopClock, leaping

LENGTHS = (30, 1.5, timedelta(minutes=1))
#: Of each option of a processor: what it takes, and what people write instead.
OPTIONS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "queue": (("mail",), ("", 5, ["mail"])),
    "max_concurrency": ((5,), ("5", 5.0, True)),
    "workspace_concurrency": ((5,), ("5", True)),
    "key_concurrency": ((1,), ("1", True)),
    "rate_limit": ((RateLimit(10, per=60),), ("10/m", 10, {"limit": 10})),
    "lease": (LENGTHS, ("60", math.inf, True)),
    "timeout": (LENGTHS, ("5m", math.nan, True)),
    "max_attempts": ((1,), ("3", 3.0, math.inf, None)),
    "backoff": ((Backoff(first=2),), (True, 2, "exponential")),
    "events": (("full", "minimal"), ("none", False)),
    "internal": ((True, False), ("yes", 1)),
    "version": ((1, 2), ("2", True)),
    "upcasters": (({}, {1: dict}), ([dict], {"1": dict}, {1: "dict"})),
    "part_of": (("order",), (5, ["order"])),
    "schedule": (
        ("0 7 * * *", Schedule("@daily"), [Schedule("@daily")], []),
        (30.0, timedelta(seconds=30), ["0 7 * * *"], {"cron": "@daily"}),
    ),
    "batch": ((1, 500), ("5", True)),
    "batch_wait": ((0, 1.5, timedelta(seconds=1)), ("1", True)),
}
#: What is made of parts: each part, and what it does not take.
PARTS: list[tuple[Callable[..., Any], str, dict[str, Any]]] = [
    (RateLimit, "limit", {"limit": "10/m"}),
    (RateLimit, "per", {"limit": 10, "per": "minute"}),
    (RateLimit, "per_key", {"limit": 10, "per_key": "user"}),
    (Backoff, "first", {"first": "2s"}),
    (Backoff, "cap", {"cap": None}),
    (Backoff, "factor", {"factor": "2"}),
    (Schedule, "cron", {"cron": 30.0}),
    (Schedule, "timezone", {"cron": "@daily", "timezone": 2}),
    (Schedule, "payload", {"cron": "@daily", "payload": [1]}),
    (Schedule, "options", {"cron": "@daily", "options": ("mail",)}),
    (Schedule, "missed", {"cron": "@daily", "missed": "all"}),
    (Schedule, "name", {"cron": "@daily", "name": 5}),
]


async def nothing(*given: Any) -> Any:
    """A processor for any payload."""


def registry_of(**options: Any) -> Registry:
    """A registry with one type."""
    given: dict[str, Any] = {"payload": dict, **options}
    given |= {"batch": 10} if "batch_wait" in options else {}
    given |= {"version": 2} if options.get("upcasters") else {}
    registry = Registry()
    registry.processor("shop.mail", **given)(nothing)
    return registry


def test_each_option_is_among_these() -> None:
    named = get_type_hints(Registry.processor).keys() - {"job_type", "payload", "options", "return"}
    assert named | get_type_hints(ProcessorOptions).keys() == OPTIONS.keys()
    made: tuple[Any, ...] = (RateLimit, Backoff, Schedule)
    fields = {(kind, name) for kind in made for name in kind.__dataclass_fields__}
    assert fields == {(kind, name) for kind, name, _ in PARTS}


@pytest.mark.parametrize("option", OPTIONS)
def test_what_an_option_takes_is_published(option: str) -> None:
    for value in OPTIONS[option][0]:
        assert registry_of(**{option: value}).specs()[0]["job_type"] == "shop.mail"


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_another_kind_is_refused_by_its_name(option: str) -> None:
    """If it were published, it would end the worker for every other type."""
    for value in OPTIONS[option][1]:
        with pytest.raises(TypeError, match=f"^processor of 'shop.mail': {option}: .*, got "):
            registry_of(**{option: value})


@pytest.mark.parametrize(("kind", "part", "given"), PARTS)
def test_a_part_of_another_kind_is_refused_by_its_name(
    kind: Any, part: str, given: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=rf"^{kind.__name__}: {part}: .*, got "):
        kind(**given)


def test_an_unknown_option_and_a_payload_that_is_no_model_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^processor of 'shop\.mail': priority: Extra inputs"):
        registry_of(priority=5)
    with pytest.raises(TypeError, match=r"payload of 'shop\.mail' must be a model"):
        registry_of(payload=RateLimit(1))


def test_a_type_that_cannot_be_published_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """A payload without JSON Schema, or a rejection by the database, is logged with its reason."""

    class Calls(BaseModel):
        back: Callable[[], None]

    class Refusing(ModelQueue):
        async def register_job_types(self, types: Any) -> Any:
            assert [each["job_type"] for each in types] == ["never", "work"]
            return 1, {"never": "schedule of never: no such day"}

    registry = Registry()
    registry.processor("calls", payload=Calls)(nothing)
    registry.processor("never", payload=dict, schedule="0 0 30 2 *")(nothing)
    registry.processor("work", payload=dict)(nothing)
    queue = Refusing([Row("a", {})])

    async def tick() -> None:
        more: dict[str, Any] = {"clock": LoopClock(), "options": TickOptions(linger_seconds=0)}
        await Worker(SETTINGS, registry=registry, queue=queue, **more).tick(budget_seconds=10)

    with caplog.at_level(logging.INFO):
        leaping(tick())

    assert queue.rows["a"].status == "completed"
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert said[0].startswith("Job type calls of tests.unit.worker.test_options.nothing (")
    assert "is refused: Cannot generate a JsonSchema for " in said[0]
    assert said[1] == "Job type never is refused: schedule of never: no such day"
    [registered] = [each for each in caplog.records if each.getMessage() == "Job types registered"]
    assert registered.__dict__["job_types"] == ["work"]
