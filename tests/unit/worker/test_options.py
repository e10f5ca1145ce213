"""An option of the wrong type is rejected where it is written, by its name and its job type."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from minutehand.worker import Backoff, RateLimit, Registry, Schedule, TickOptions, Worker
from tests.support.queue_model import SETTINGS, ModelQueue, Row
from tests.support.virtual_time import LoopClock, leaping

COMMIT = "c0ffee" * 6 + "c0de"
DEPLOYED_AT = datetime(2026, 1, 1, tzinfo=UTC)
#: Options of a wrong kind. pydantic checks all of them, by the annotations.
OPTIONS: dict[str, Any] = {
    "queue": 5,
    "max_concurrency": "5",
    "lease": math.inf,
    "backoff": "exponential",
    "schedule": timedelta(seconds=30),
    "batch": True,
}
#: Types of option values, a word of the expected error, and rejected arguments.
PARTS: list[tuple[Callable[..., Any], str, dict[str, Any]]] = [
    (RateLimit, "per", {"limit": 10, "per": "minute"}),
    (Backoff, "cap", {"cap": None}),
    (Schedule, "missed", {"cron": "@daily", "missed": "all"}),
]


async def nothing(*given: Any) -> Any:
    """A processor for any payload."""


def registry_of(**options: Any) -> Registry:
    """A registry with one type."""
    registry = Registry()
    registry.processor("shop.mail", **{"payload": dict, **options})(nothing)
    return registry


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_another_kind_is_refused_by_its_name(option: str) -> None:
    """If the option were published, the error would stop the worker's other types too."""
    with pytest.raises(TypeError, match=f"^processor of 'shop.mail': {option}: .*, got "):
        registry_of(**{option: OPTIONS[option]})


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
            assert (types[0]["commit"], types[0]["deployed_at"]) == (
                COMMIT,
                DEPLOYED_AT.isoformat(),
            )
            return 1, {"never": "schedule of never: no such day"}

    registry = Registry()
    registry.processor("calls", payload=Calls)(nothing)
    registry.processor("never", payload=dict, schedule="0 0 30 2 *")(nothing)
    registry.processor("work", payload=dict)(nothing)
    queue = Refusing([Row("a", {})])

    async def tick() -> None:
        settings = SETTINGS.model_copy(update={"commit": COMMIT, "deployed_at": DEPLOYED_AT})
        options = TickOptions.of(settings, origin={"commit": COMMIT}, linger_seconds=0)
        more: dict[str, Any] = {"clock": LoopClock(), "options": options}
        await Worker(settings, registry=registry, queue=queue, **more).tick(budget_seconds=10)

    with caplog.at_level(logging.INFO):
        leaping(tick())

    assert queue.rows["a"].status == "completed"
    assert str(queue.requests[0].version).endswith(f"+{COMMIT[:9]}")
    result = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert result[0].startswith("Job type calls of tests.unit.worker.test_options.nothing (")
    assert "is rejected: Cannot generate a JsonSchema for " in result[0]
    assert result[1] == "Job type never is rejected: schedule of never: no such day"
    [registered] = [each for each in caplog.records if each.getMessage() == "Job types registered"]
    assert registered.__dict__["job_types"] == ["work"]
