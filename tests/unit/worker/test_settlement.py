"""From how a processor ended to what is settled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from minutehand.queue.models import ErrorInfo, JobId, SettleItem
from minutehand.worker import (
    Cancel,
    Fail,
    PayloadRejected,
    ProcessorError,
    Retry,
    Snooze,
    Suspended,
    TurnEnded,
    UnknownProcessor,
)
from minutehand.worker.isolation import Blocked
from minutehand.worker.settlement import Abandoned, Circumstances, Ending, Raised, Returned, verdict

NOTHING_SPECIAL = Circumstances()
AT = datetime(2026, 1, 1, tzinfo=UTC)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
endings = st.one_of(
    st.builds(Returned, json_values),
    st.sampled_from(
        [
            Returned(Retry(after=3)),
            Returned(Snooze(after=3)),
            Returned(Fail("no")),
            Raised(ValueError("x")),
            Raised(asyncio.CancelledError()),
            Raised(Suspended({"kind": "sleep", "name": "s"})),
            Raised(SystemExit(1)),
            Raised(ProcessorError("x", retryable=False)),
            Abandoned(),
        ]
    ),
)
stops = st.sampled_from([None, "cancel", "lost", "timeout", "deadline", "shutdown"])
circumstances = st.builds(
    Circumstances,
    stop=stops,
    timeout_seconds=st.none() | st.floats(0.1, 1000),
    advanced=st.booleans(),
    had_fair_time=st.booleans(),
)


def settled(ending: Ending, seen: Circumstances = NOTHING_SPECIAL) -> SettleItem:
    item = verdict(ending, seen)
    assert item is not None
    return item


def kept(error: BaseException) -> ErrorInfo:
    """What a job keeps of an error that its processor raised."""
    info = settled(Raised(error)).error
    assert info is not None
    return info


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def raised_from(error: Exception, *causes: Exception) -> Exception:
    error.__cause__ = raised_from(*causes) if causes else None
    return error


class OfStatusError(Exception):
    """As aiohttp keeps the status of an answer."""

    def __init__(self, status: Any) -> None:
        self.status = status


class RudeError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class Receipt(BaseModel):
    at: datetime = Field(alias="on")


@given(endings, circumstances)
def test_every_ending_settles_unless_the_lease_is_gone(ending: Ending, seen: Circumstances) -> None:
    """A job that is neither settled nor lost would wait for its lease to expire."""
    item = verdict(ending, seen)

    assert (item is None) == (seen.stop == "lost")
    if item is not None:
        assert item.outcome in {
            "completed",
            "retry",
            "failed",
            "snoozed",
            "released",
            "waiting",
            "cancelled",
        }
        assert (item.error is not None) == (item.outcome in {"retry", "failed"})
        assert (item.wait is not None) == (item.outcome == "waiting")


@given(endings)
def test_a_reported_cancel_wins(ending: Ending) -> None:
    assert settled(ending, Circumstances(stop="cancel")).outcome == "cancelled"


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ({"a": [1, 2.5, True, None, "é"]}, {"a": [1, 2.5, True, None, "é"]}),
        ({"a\x00": ["\x00", 1]}, {"a\ufffd": ["\ufffd", 1]}),
        ((Receipt(on=AT),), [{"on": "2026-01-01T00:00:00Z"}]),
        ([{"NaN": 1.5}, "Infinity"], [{"NaN": 1.5}, "Infinity"]),
        ("x" * 999_998, "x" * 999_998),
        (nested(100), nested(100)),
    ],
)
def test_a_result_is_kept_as_json_that_postgres_can_keep(value: Any, result: Any) -> None:
    """Jsonb knows no NUL character, and one would make the whole settle fail."""
    item = settled(Returned(value))

    assert (item.outcome, item.result) == ("completed", result)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"rates": [1, float("nan")]}, "the value['rates'][1] is nan"),
        (float("-inf"), "the value is -inf"),
        ("x" * 999_999, "1000001 bytes"),
        ("\ud800", "surrogate"),
        (nested(101), "recursion limit"),
    ],
)
def test_a_result_that_cannot_be_kept_is_final(value: Any, why: str) -> None:
    """The work is done: running it again would repeat its effects and end the same."""
    item = settled(Returned(value))

    assert item.error is not None
    assert (item.outcome, item.error.type) == ("failed", "ResultRejected")
    assert why in item.error.message


@pytest.mark.parametrize(
    ("planned", "fields"),
    [
        (
            Retry("busy", after=timedelta(seconds=9), data={"n": 1}),
            {"outcome": "retry", "error": ("Retry", "busy", {"n": 1}), "retry_after_seconds": 9},
        ),
        (Retry("busy"), {"outcome": "retry", "error": ("Retry", "busy", None)}),
        (Snooze(until=AT), {"outcome": "snoozed", "until": AT}),
        (Snooze(after=9), {"outcome": "snoozed", "delay_seconds": 9}),
        (Fail("no", {"n": 1}), {"outcome": "failed", "error": ("Fail", "no", {"n": 1})}),
        (Cancel("late"), {"outcome": "cancelled", "error": ("Cancelled", "late", None)}),
    ],
)
def test_a_planned_ending_is_settled_as_planned(planned: Any, fields: dict[str, Any]) -> None:
    """Returned by a processor, or raised by code below it."""
    if error := fields.get("error"):
        keys = ("type", "message", "data")
        fields = fields | {"error": ErrorInfo(**dict(zip(keys, error, strict=True)))}
    item = SettleItem(job_id=JobId(""), fence=0, **fields)

    assert verdict(Returned(planned), NOTHING_SPECIAL) == item
    assert verdict(Raised(TurnEnded(planned)), NOTHING_SPECIAL) == item


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("x"), {"type": "ValueError", "message": "x", "data": None}),
        (OfStatusError(400), {"type": f"{__name__}.OfStatusError", "status": 400}),
        (ProcessorError("x", data={"n": 1}), {"data": {"n": 1}}),
        (ProcessorError("x", data={"token": "abcdefgh1234"}), {"data": {"token": "[hidden]"}}),
        (ProcessorError("x", data={"n": float("nan")}), {"data": {"repr": "{'n': nan}"}}),
        (
            ProcessorError("x", data={"n": float("nan"), "said": "Bearer abcdefgh12345678"}),
            {"data": {"repr": "{'n': nan, 'said': 'Bearer [hidden]'}"}},
        ),
        (
            ProcessorError("x", retryable=False, data={"n": 1}),
            {"type": "minutehand.queue.errors.ProcessorError", "data": {"n": 1}},
        ),
        (RudeError(), {"message": "RudeError"}),
        (RuntimeError("401 for Bearer abcdefgh12345678"), {"message": "401 for Bearer [hidden]"}),
        (RuntimeError("a\x00\ud800"), {"message": "a\ufffd?"}),
        (RuntimeError("x " * 1000), {"message": "x " * 1000}),
        (RuntimeError("x " * 1000 + "x"), {"message": "x " * 999 + "x…"}),
        (OfStatusError(399), {"status": None}),
        (OfStatusError(599), {"status": 599}),
        (OfStatusError(600), {"status": None}),
        (OfStatusError("404"), {"status": None}),
        (OSError(28, "full"), {"errno": "ENOSPC"}),
        (raised_from(ValueError(), OSError("x"), OSError(28, "full")), {"errno": "ENOSPC"}),
        (raised_from(*[ValueError() for _ in range(4)], OfStatusError(404)), {"status": 404}),
        (raised_from(*[ValueError() for _ in range(5)], OfStatusError(404)), {"status": None}),
    ],
)
def test_an_error_is_kept_with_what_a_remedy_needs(
    error: Exception, expected: dict[str, Any]
) -> None:
    """Its kind, what a vendor or the system answered beneath it, and no secret."""
    info = kept(error)

    assert {name: getattr(info, name) for name in expected} == expected


def test_what_an_error_hides_is_not_its_cause() -> None:
    """`raise … from None` says so; without it the error that was being handled is one."""
    told = []
    for hidden in (False, True):
        try:
            try:
                raise OfStatusError(404)
            except OfStatusError:
                if hidden:
                    raise ValueError from None
                raise ValueError  # noqa: B904 - as most code does
        except ValueError as error:
            told.append(kept(error).status)

    assert told == [404, None]


def test_a_payload_that_does_not_fit_is_final() -> None:
    """Another attempt would not help; what is wrong with it is kept for who sent it."""
    item = settled(Raised(PayloadRejected("no", [{"at": "n"}])))

    assert (item.outcome, item.error) == (
        "failed",
        ErrorInfo(type="PayloadRejected", message="no", data={"problems": [{"at": "n"}]}),
    )


@pytest.mark.parametrize("stop", ["timeout", "deadline", "shutdown"])
def test_a_stopped_processor_may_still_return_what_it_has(stop: Any) -> None:
    """A report that is partial is better than none; it had been told to end in time."""
    seen = Circumstances(stop=stop, timeout_seconds=5, ran_seconds=5.1)
    item = settled(Returned({"partial": True}), seen)

    assert (item.outcome, item.result) == ("completed", {"partial": True})


@pytest.mark.parametrize(
    ("seen", "cost"),
    [
        (Circumstances(stop="timeout"), ("retry", None, None)),
        (Circumstances(stop="deadline"), ("retry", None, 0)),
        (Circumstances(stop="deadline", advanced=True), ("snoozed", 0, None)),
        (Circumstances(stop="deadline", had_fair_time=False), ("released", None, None)),
        (Circumstances(stop="shutdown"), ("released", None, None)),
        (Circumstances(stop="timeout", advanced=True), ("retry", None, None)),
    ],
)
@pytest.mark.parametrize(
    "ending", [Raised(asyncio.CancelledError()), Raised(ProcessorError("torn down")), Abandoned()]
)
def test_what_being_stopped_costs(ending: Ending, seen: Circumstances, cost: object) -> None:
    """Only who had a fair chance and used none of it pays with an attempt."""
    item = settled(ending, seen)

    assert (item.outcome, item.delay_seconds, item.retry_after_seconds) == cost


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (Circumstances(), "was stopped after its timeout"),
        (Circumstances(timeout_seconds=2.5), "was stopped after 2.5 s"),
        (
            Circumstances(timeout_seconds=2.5, blocked=Blocked(4, "app.py:1")),
            "ran past 2.5 s: it blocked its worker for 4 s at app.py:1",
        ),
    ],
)
def test_a_timeout_says_after_how_long_and_why_it_was_late(seen: Circumstances, said: str) -> None:
    item = settled(Abandoned(), replace(seen, stop="timeout"))

    assert item.error is not None
    assert item.error.message == f"the attempt {said}"


@pytest.mark.parametrize(("ran", "outcome"), [(60.0, "completed"), (60.1, "retry")])
def test_what_ran_past_its_timeout_has_no_result(ran: float, outcome: str) -> None:
    """It kept the event loop, so nothing could stop it."""
    item = settled(Returned(1), Circumstances(timeout_seconds=60.0, ran_seconds=ran))

    assert (item.outcome, item.error and item.error.type) == (
        outcome, None if outcome == "completed" else "AttemptTimeout",
    )  # fmt: skip


class ServiceBusyError(Exception):
    """As an HTTP client might raise it for a 429."""

    def __init__(self, retry_after: Any) -> None:
        self.retry_after = retry_after
        super().__init__("busy")


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (30, 30.0),
        (1.5, 1.5),
        (timedelta(minutes=2), 120.0),
        (-5, 0.0),
        (10**12, 604_800.0),
        ("soon", None),
        (True, None),
        (float("nan"), None),
        (None, None),
    ],
)
def test_a_retry_after_on_the_exception_is_respected(asked: Any, seconds: float | None) -> None:
    item = settled(Raised(ServiceBusyError(asked)))

    assert item.retry_after_seconds == seconds


def of_httpx(said: str) -> Exception:
    request = httpx.Request("GET", "https://vendor.example")
    answer = httpx.Response(429, headers={"retry-after": said}, request=request)
    return httpx.HTTPStatusError("429", request=request, response=answer)


def of_requests(said: str) -> Exception:
    answer = requests.Response()
    answer.headers["Retry-After"] = said
    return requests.HTTPError("429", response=answer)


class OfAiohttpError(Exception):
    """Keeps the headers as `aiohttp.ClientResponseError` does."""

    def __init__(self, said: Any) -> None:
        self.headers = requests.structures.CaseInsensitiveDict({"retry-after": said})


@pytest.mark.parametrize("raised", [of_httpx, of_requests, OfAiohttpError])
def test_a_retry_after_of_the_vendor_s_answer_is_respected(
    raised: Callable[[str], Exception],
) -> None:
    """No one copies a header into an attribute first."""
    items = [settled(Raised(raised(said))) for said in ("45", "nonsense")]

    assert [item.retry_after_seconds for item in items] == [45.0, None]
    assert settled(Raised(OfAiohttpError(45))).retry_after_seconds is None, "a header is text"


def test_a_task_group_fails_as_its_first_error() -> None:
    """'Unhandled errors in a TaskGroup' is no cause, and has no status."""
    refusal = httpx.HTTPStatusError(
        "slow down",
        request=httpx.Request("GET", "https://vendor.example"),
        response=httpx.Response(429, headers={"Retry-After": "45"}),
    )

    item = settled(Raised(ExceptionGroup("unhandled", [refusal, KeyError()])))

    assert item.error is not None
    assert (item.error.type, item.error.status) == ("httpx.HTTPStatusError", 429)
    assert item.error.message == "slow down (and 1 more in its task group)"
    assert item.retry_after_seconds == 45


def test_a_wait_hidden_in_a_group_is_found_but_not_beside_an_error() -> None:
    wait = Suspended({"kind": "sleep", "name": "s"})
    nested = BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [wait])])
    with_error = BaseExceptionGroup("outer", [wait, ValueError("x")])

    alone, beside = (settled(Raised(error)) for error in (nested, with_error))

    assert (alone.outcome, alone.wait, beside.outcome) == ("waiting", wait.wait, "retry")


def test_an_unknown_processor_hands_its_job_back_unspent() -> None:
    """A newer worker may know it."""
    item = settled(Raised(UnknownProcessor("x")))

    assert (item.outcome, item.delay_seconds) == ("snoozed", 30.0)


@pytest.mark.parametrize("wrong", [{}, {"until": datetime.now(UTC), "after": 1}])
def test_a_snooze_says_when_in_exactly_one_way(wrong: Any) -> None:
    with pytest.raises(ValueError, match="either"):
        Snooze(**wrong)


def test_a_snooze_needs_a_time_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        Snooze(until=datetime(2026, 1, 1))  # noqa: DTZ001 - the very mistake


@pytest.mark.parametrize("stop", [None, "timeout", "deadline", "shutdown"])
def test_what_the_processor_decided_counts_even_when_it_was_stopped(stop: Any) -> None:
    """A wait reached in the last moment, or a refusal to ever try again, is no accident."""
    seen = Circumstances(stop=stop)

    wait = settled(Raised(Suspended({"kind": "sleep", "name": "s"})), seen)
    final = settled(Raised(ProcessorError("never again", retryable=False)), seen)

    assert (wait.outcome, final.outcome) == ("waiting", "failed")
