"""Options of a processor that have a wrong type or value are rejected with their name."""

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from minutehand.worker import Backoff, RateLimit, Registry, Schedule, TickOptions, Worker
from minutehand.worker.loop import REGISTER_INTERVAL_SECONDS
from tests.support.queue_model import SETTINGS, ModelQueue, Row
from tests.support.virtual_time import LoopClock, leaping

COMMIT = "c0ffee" * 6 + "c0de"
DEPLOYED_AT = "2026-01-01T00:00:00+00:00"


async def nothing(*given: Any) -> Any:
    """Do nothing, as a processor for any payload."""


#: Options of a wrong type, which pydantic rejects.
WRONG_TYPES: dict[str, Any] = {
    "queue": 5,
    "max_concurrency": "5",
    "lease": math.inf,
    "backoff": "exponential",
    "schedule": timedelta(seconds=30),
    "batch": True,
}
TWO_ARGUMENTS = "'work' must take two arguments, the job and its ctx; it"
#: For each rejected declaration: the options, the function and the message.
REJECTED: list[tuple[dict[str, Any], Any, str]] = [
    *(
        ({name: value}, nothing, f"^processor of 'work': {name}: .*, got ")
        for name, value in WRONG_TYPES.items()
    ),
    ({"priority": 5}, nothing, "^processor of 'work': priority: Extra inputs"),
    ({"payload": RateLimit(1)}, nothing, "payload of 'work' must be a model"),
    ({"schedule": [Schedule("@daily"), Schedule("@hourly")]}, nothing, "different names"),
    ({"upcasters": {1: nothing}}, nothing, "upcasters of 'work' must be from 1 to 0"),
    ({"batch": 501}, nothing, "batch of 'work' must be from 1 to 500, not 501"),
    ({"batch": 5, "batch_wait": 4}, nothing, "must be from 0 to 3 seconds, not 4"),
    ({"batch_wait": 1}, nothing, "batch_wait of 'work' needs batch"),
    ({}, lambda job: None, TWO_ARGUMENTS),
    ({}, lambda job, ctx, clock: None, TWO_ARGUMENTS),
    ({}, lambda job, *, ctx: None, TWO_ARGUMENTS),
    ({"batch": 5}, lambda job, ctx: None, "must take one argument, the list of its jobs"),
]


@pytest.mark.parametrize(("options", "run", "message"), REJECTED)
def test_a_wrong_processor_is_rejected_where_it_is_declared(
    options: dict[str, Any], run: Any, message: str
) -> None:
    """A processor with a wrong option or wrong parameters is rejected at its declaration.

    Otherwise each of its jobs would spend all attempts on one TypeError.
    """
    with pytest.raises((TypeError, ValueError), match=message):
        Registry().processor("work", **{"payload": dict, **options})(run)


@pytest.mark.parametrize("run", [print, lambda job, ctx, more=1: None])
def test_a_function_that_can_be_called_is_registered(run: Any) -> None:
    Registry().processor("work", payload=dict)(run)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (RateLimit, {"limit": 10, "per": "minute"}),
        (Backoff, {"cap": None}),
        (Schedule, {"cron": "@daily", "missed": "all"}),
    ],
)
def test_a_part_of_another_kind_is_refused_by_its_name(kind: Any, wrong: dict[str, Any]) -> None:
    """The error names the last of the arguments."""
    with pytest.raises(TypeError, match=rf"^{kind.__name__}: {[*wrong][-1]}: .*, got "):
        kind(**wrong)


def test_a_type_that_cannot_be_published_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """If a job type has no JSON schema or is rejected by the database, the reason is logged.

    The worker runs its other types, and registers them again only after some minutes.
    """
    registered: list[int] = []

    class Calls(BaseModel):
        back: Callable[[], None]

    class Refusing(ModelQueue):
        async def register_job_types(self, types: Any) -> Any:
            assert [each["job_type"] for each in types] == ["never", "work"]
            assert types[0].items() >= {"commit": COMMIT, "deployed_at": DEPLOYED_AT}.items()
            registered.append(1)
            return 1, {"never": "schedule of never: no such day"}

    registry = Registry()
    registry.processor("calls", payload=Calls)(nothing)
    registry.processor("never", payload=dict, schedule="0 0 30 2 *")(nothing)
    registry.processor("work", payload=dict)(nothing)
    queue = Refusing([Row("a", {})])

    async def tick() -> None:
        deployed_at = datetime.fromisoformat(DEPLOYED_AT)
        settings = SETTINGS.model_copy(update={"commit": COMMIT, "deployed_at": deployed_at})
        options = TickOptions.of(settings, origin={"commit": COMMIT}, linger_seconds=0)
        worker = Worker(
            settings, registry=registry, queue=queue, options=options, clock=LoopClock()
        )
        await worker.tick(budget_seconds=10)
        with caplog.at_level(logging.CRITICAL):
            await worker.tick(budget_seconds=10)
            assert registered == [1]
            await asyncio.sleep(REGISTER_INTERVAL_SECONDS)
            await worker.tick(budget_seconds=10)
            assert registered == [1, 1]

    with caplog.at_level(logging.INFO):
        leaping(tick())

    assert queue.rows["a"].status == "completed"
    assert str(queue.requests[0].version).endswith(f"+{COMMIT[:9]}")
    result = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert result[0].startswith("Job type calls of tests.unit.worker.test_options.nothing (")
    assert "is rejected: Cannot generate a JsonSchema for " in result[0]
    assert result[1] == "Job type never is rejected: schedule of never: no such day"
    [job_types] = [vars(each)["job_types"] for each in caplog.records if "job_types" in vars(each)]
    assert job_types == ["work"]
