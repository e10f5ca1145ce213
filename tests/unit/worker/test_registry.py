"""Which processor runs which type, and what is published about it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, Field

from infra.bench.scratch import WORKSPACE
from minutehand.worker import (
    Backoff,
    Fail,
    Job,
    JobContext,
    PayloadRejected,
    RateLimit,
    Registry,
    Retry,
    Schedule,
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
        tagged_by=["account_id"],
        schedule=Schedule("0 3 * * *", timezone="Europe/Berlin", missed="skip"),
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
        "tagged_by": ["account_id"],
        "source": "tests.unit.worker.test_registry:enrich",
        "description": "Do nothing.",
        "schedules": [
            {
                "name": "enrich",
                "cron": "0 3 * * *",
                "scope": "system",
                "workspace_id": None,
                "timezone": "Europe/Berlin",
                "payload": {},
                "options": {},
                "missed": "skip",
            }
        ],
    }
    assert schema["required"] == ["account_id"]


def test_a_misspelt_type_gets_a_suggestion() -> None:
    registry = Registry()
    registry.processor("enrich_account", payload=Account)(enrich)

    with pytest.raises(UnknownProcessor, match="Did you mean 'enrich_account'"):
        registry.get("enrich_acount")
    with pytest.raises(UnknownProcessor, match=r"'mail'\.$"):
        registry.get("mail")


@pytest.mark.parametrize(
    "wrong",
    [
        {"job_type": ""},
        {"job_type": "x" * 101},
        {"version": 0},
        {"version": 2, "upcasters": {2: dict}},
        {"version": 2, "upcasters": {0: dict}},
        {"max_concurrency": 0},
        {"max_attempts": 0},
        {"max_attempts": 51},
    ],
)
def test_options_without_sense_are_refused_at_import(wrong: dict[str, Any]) -> None:
    options: dict[str, Any] = {"job_type": "enrich", **wrong}

    with pytest.raises(ValueError, match=r"enrich|name"):
        Registry().processor(options.pop("job_type"), payload=Account, **options)


def test_an_option_may_be_as_small_or_large_as_it_makes_sense() -> None:
    registry = Registry()
    for attempts in (1, 50):
        registry.processor(
            "x" * (101 - attempts), payload=Account, version=2, upcasters={1: dict},
            max_concurrency=1, max_attempts=attempts, lease=0.2, timeout=0,
        )(enrich)  # fmt: skip

    wires = [spec.wire() for spec in registry.specs()]

    assert {(wire["lease_seconds"], wire["timeout_seconds"]) for wire in wires} == {(1, 1)}
    assert [wire["job_type"] for wire in wires] == ["x" * 51, "x" * 100], "sorted, as its names"


@pytest.mark.parametrize(
    ("cron", "for_"),
    [
        ("* * * *", "each"),
        ("* * * * x", "each"),
        ("* * * * * *", "each"),
        ("0 7,x * * 1", "each"),
        ("0 7! * * 1", "each"),
        ("@often", "each"),
        ("@daily", "someone"),
    ],
)
def test_a_schedule_that_could_never_fire_is_refused_where_it_is_written(
    cron: str, for_: str
) -> None:
    with pytest.raises(ValueError, match="must"):
        Schedule(cron, for_=for_)


def test_schedules_of_a_type_have_different_names() -> None:
    daily, early = Schedule("@Daily", for_="each"), Schedule("0,30 7 * * 1-5", WORKSPACE, name="e")
    given: list[Schedule | list[Schedule]] = [daily, [daily, early]]
    for number, schedules in enumerate(given):
        registry = Registry()
        registry.processor("enrich", payload=Account, schedule=schedules)(enrich)
        wires = [schedule.wire("enrich") for schedule in registry.get("enrich").schedules]
        assert [(wire["name"], wire["scope"], wire["workspace_id"]) for wire in wires] == [
            ("enrich", "each", None), ("e", "workspace", WORKSPACE),
        ][: number + 1]  # fmt: skip

    with pytest.raises(ValueError, match="different names"):
        registry.processor("e", payload=Account, schedule=[daily, early])


def test_one_name_has_one_processor_and_one_publisher() -> None:
    async def publish() -> int:
        return 0

    registry = Registry()
    registry.processor("enrich", payload=Account)(enrich)
    registry.publisher("app", publish)
    other = Registry()
    other.add(registry.get("enrich"))

    assert [kind.name for kind in other] == ["enrich"]
    assert registry.publishers == {"app": publish}
    with pytest.raises(ValueError, match="already"):
        registry.processor("enrich", payload=Account)
    with pytest.raises(ValueError, match="already"):
        other.add(registry.get("enrich"))
    with pytest.raises(ValueError, match="already"):
        registry.publisher("app", publish)


async def inner(job: Any, ctx: Any, call: Any) -> Any:
    return await call()


async def outer(job: Any, ctx: Any, call: Any) -> Any:
    return await call()


def test_what_runs_around_others_comes_first_and_once() -> None:
    """Middleware that was there already stays where it is."""
    registry = Registry()
    registry.processor("plain", payload=Account)(enrich)
    assert registry.around(inner) is inner
    registry.around_all(outer, inner)

    assert list(registry.get("plain").around) == [outer, inner]
    with pytest.raises(TypeError, match="async"):
        registry.around(lambda job, ctx, call: call())


def test_what_a_reloaded_module_registered_is_dropped() -> None:
    """Its types and middleware; those of others stay, and their names are free."""
    registry = Registry()
    registry.processor("enrich", payload=Account)(enrich)
    registry.around(inner)

    registry.forget("elsewhere")
    assert ("enrich" in registry, len(registry.get("enrich").around)) == (True, 1)
    around = registry.get("enrich").around
    registry.forget("tests.unit.worker.test_reg")

    assert (registry.names, list(around), registry.find("enrich")) == ((), [], None)


class Described:
    """Does  what it says.

    In detail.
    """

    async def __call__(self, job: Job[Account], ctx: JobContext) -> Account | Retry | None: ...


def bare(job: Job[Account], ctx: JobContext) -> Fail:
    return Fail("no")


def unseen(job: Job[Account], ctx: JobContext) -> Unseen:  # type: ignore[name-defined]  # noqa: F821
    """Returns what its module imports for the type checker alone."""


@pytest.mark.parametrize(
    ("run", "source", "description", "is_async"),
    [
        (Described(), "Described", "Does what it says.", True),
        (bare, "bare", None, False),
    ],
)
def test_a_type_says_where_its_processor_is_and_what_it_does(
    run: Any, source: str, description: str | None, is_async: bool
) -> None:
    registry = Registry()
    registry.processor("enrich", payload=Account)(run)
    kind = registry.get("enrich")

    assert (kind.source, kind.description) == (f"{__name__}:{source}", description)
    assert kind.is_async == is_async


@pytest.mark.parametrize(
    ("run", "schema"),
    [
        (Described(), {"anyOf": [Account.model_json_schema(), {"type": "null"}]}),
        (bare, None),
        (enrich, {"type": "null"}),
        (lambda job, ctx: None, None),
        (unseen, None),
    ],
)
def test_a_result_has_the_schema_of_what_its_processor_says_it_returns(
    run: Any, schema: Any
) -> None:
    """Of its results alone: a planned ending is none."""
    registry = Registry()
    registry.processor("enrich", payload=Account)(run)
    found = registry.get("enrich").result_schema()

    if found is not None and "$defs" in found:
        [model] = found.pop("$defs").values()
        found["anyOf"][0] = model
    assert found == schema


def test_a_payload_that_does_not_fit_says_where() -> None:
    registry = Registry()
    registry.processor("enrich", payload=Account)(enrich)

    with pytest.raises(PayloadRejected, match="account_id") as caught:
        registry.get("enrich").read_payload({"account_id": "", "depth": 2}, None)

    assert caught.value.problems[0]["path"] == ["account_id"]
    with pytest.raises(PayloadRejected, match="does not fit Account: payload"):
        registry.get("enrich").read_payload(["a"], 0)


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

    oldest = {"account": "a"}
    assert kind.read_payload(oldest, 1) == Account(account_id="a", depth=9)
    assert oldest == {"account": "a"}
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
    assert registry.with_parts(["a", "c"]) == ["a", "c", "b"], "once each"
