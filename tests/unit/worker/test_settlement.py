"""From how a processor ended to what is settled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from minutehand.queue.errors import QueueUnavailable
from minutehand.worker import Fail, ProcessorError, Retry, Snooze, Suspended, UnknownProcessor
from minutehand.worker.settlement import Abandoned, Circumstances, Ending, Raised, Returned, verdict

NOTHING_SPECIAL = Circumstances()
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
    item = verdict(ending, Circumstances(stop="cancel"))

    assert item is not None
    assert item.outcome == "cancelled"


@given(json_values)
def test_any_json_is_a_result_and_postgres_can_keep_it(value: Any) -> None:
    """Jsonb knows no NUL character, and one would make the whole settle fail."""
    item = verdict(Returned(value), NOTHING_SPECIAL)

    assert item is not None
    if item.outcome == "completed":
        assert "\x00" not in str(item.result)
    else:
        assert item.error is not None
        assert item.error.type == "ResultRejected"


@pytest.mark.parametrize("stop", ["timeout", "deadline", "shutdown"])
def test_a_stopped_processor_may_still_return_what_it_has(stop: Any) -> None:
    """A report that is partial is better than none."""
    item = verdict(Returned({"partial": True}), Circumstances(stop=stop))

    assert item is not None
    assert (item.outcome, item.result) == ("completed", {"partial": True})


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (Circumstances(stop="timeout"), "retry"),
        (Circumstances(stop="deadline"), "retry"),
        (Circumstances(stop="deadline", advanced=True), "snoozed"),
        (Circumstances(stop="deadline", had_fair_time=False), "released"),
        (Circumstances(stop="shutdown"), "released"),
        (Circumstances(stop="timeout", advanced=True), "retry"),
        (NOTHING_SPECIAL, "retry"),
    ],
)
@pytest.mark.parametrize(
    "ending", [Raised(asyncio.CancelledError()), Raised(OSError("torn down")), Abandoned()]
)
def test_what_being_stopped_costs(ending: Ending, seen: Circumstances, outcome: str) -> None:
    """Only who had a fair chance and used none of it pays with an attempt."""
    item = verdict(ending, seen)

    assert item is not None
    assert item.outcome == outcome


@pytest.mark.parametrize(("ran", "outcome"), [(60.0, "completed"), (60.1, "retry")])
def test_what_ran_past_its_timeout_has_no_result(ran: float, outcome: str) -> None:
    """It kept the event loop, so nothing could stop it."""
    item = verdict(Returned(1), Circumstances(timeout_seconds=60.0, ran_seconds=ran))

    assert item is not None
    assert (item.outcome, item.error and item.error.type) == (
        outcome, None if outcome == "completed" else "AttemptTimeout",
    )  # fmt: skip


def test_a_model_is_kept_as_plain_json() -> None:
    class Receipt(BaseModel):
        at: datetime
        total: float

    item = verdict(
        Returned(Receipt(at=datetime(2026, 1, 1, tzinfo=UTC), total=1.5)), NOTHING_SPECIAL
    )

    assert item is not None
    assert item.result == {"at": "2026-01-01T00:00:00Z", "total": 1.5}


def test_a_result_too_large_to_keep_is_final() -> None:
    """The work is done: running it again would repeat its effects and end the same."""
    item = verdict(Returned("x" * 2_000_000), NOTHING_SPECIAL)

    assert item is not None
    assert item.outcome == "failed"


class ServiceBusyError(Exception):
    """As an HTTP client might raise it for a 429."""

    def __init__(self, retry_after: Any) -> None:
        self.retry_after = retry_after
        super().__init__("busy")


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (30, 30.0),
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
    item = verdict(Raised(ServiceBusyError(asked)), NOTHING_SPECIAL)

    assert item is not None
    assert item.retry_after_seconds == seconds


@pytest.mark.parametrize("beneath", [False, True])
def test_an_outage_of_the_database_is_named_as_such(beneath: bool) -> None:
    """By this word no circuit breaker counts it; an error of an app's own may carry it."""
    error: Exception = QueueUnavailable("the database is not connected")
    if beneath:
        error, error.__cause__ = RuntimeError("the database is not connected"), error
    item = verdict(Raised(error), NOTHING_SPECIAL)

    assert item is not None
    assert item.error is not None
    assert (item.outcome, item.error.type) == ("retry", "QueueUnavailable")


def test_a_secret_in_an_errors_message_is_not_kept() -> None:
    """The message is shown to every member and sent by webhooks."""
    item = verdict(Raised(RuntimeError("401 for Bearer abcdefgh12345678")), NOTHING_SPECIAL)

    assert item is not None
    assert item.error is not None
    assert item.error.message.startswith("401 for Bearer ")
    assert "abcdefgh" not in item.error.message


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

    def __init__(self, said: str) -> None:
        self.headers = requests.structures.CaseInsensitiveDict({"retry-after": said})


@pytest.mark.parametrize("raised", [of_httpx, of_requests, OfAiohttpError])
def test_a_retry_after_of_the_vendor_s_answer_is_respected(
    raised: Callable[[str], Exception],
) -> None:
    """No one copies a header into an attribute first."""
    items = [verdict(Raised(raised(said)), NOTHING_SPECIAL) for said in ("45", "nonsense")]

    assert [item.retry_after_seconds for item in items if item] == [45.0, None]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"rates": [1, float("nan")]}, "the value['rates'][1] is nan"),
        (float("-inf"), "the value is -inf"),
        ([{"NaN": "Infinity"}], None),
    ],
)
def test_a_number_that_json_lacks_is_refused_with_its_place(value: Any, path: str | None) -> None:
    """As null it would be read as "no rate", and the job would look completed."""
    item = verdict(Returned(value), NOTHING_SPECIAL)

    assert item is not None
    assert (item.error is None) == (path is None)
    if path is not None and item.error is not None:
        assert item.error.type == "ResultRejected"
        assert path in item.error.message


def test_an_error_whose_text_cannot_be_had_still_has_a_type() -> None:
    class RudeError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    item = verdict(Raised(RudeError()), NOTHING_SPECIAL)

    assert item is not None
    assert item.error is not None
    assert item.error.message == "RudeError"


def test_a_task_group_fails_as_its_first_error() -> None:
    """'Unhandled errors in a TaskGroup' is no cause, and has no status."""
    refusal = httpx.HTTPStatusError(
        "slow down",
        request=httpx.Request("GET", "https://vendor.example"),
        response=httpx.Response(429, headers={"Retry-After": "45"}),
    )

    item = verdict(Raised(ExceptionGroup("unhandled", [refusal, KeyError()])), NOTHING_SPECIAL)

    assert item is not None
    assert item.error is not None
    assert (item.error.type, item.error.status) == ("httpx.HTTPStatusError", 429)
    assert item.error.message == "slow down (and 1 more in its task group)"
    assert item.retry_after_seconds == 45


def test_a_wait_hidden_in_a_group_is_found_but_not_beside_an_error() -> None:
    wait = Suspended({"kind": "sleep", "name": "s"})
    nested = BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [wait])])
    with_error = BaseExceptionGroup("outer", [wait, ValueError("x")])

    alone, beside = (verdict(Raised(error), NOTHING_SPECIAL) for error in (nested, with_error))

    assert alone is not None
    assert beside is not None
    assert (alone.outcome, beside.outcome) == ("waiting", "retry")


def test_an_unknown_processor_hands_its_job_back_unspent() -> None:
    """A newer worker may know it."""
    item = verdict(Raised(UnknownProcessor("x")), NOTHING_SPECIAL)

    assert item is not None
    assert (item.outcome, item.delay_seconds) == ("snoozed", 30.0)


@pytest.mark.parametrize("wrong", [{}, {"until": datetime.now(UTC), "after": 1}])
def test_a_snooze_says_when_in_exactly_one_way(wrong: Any) -> None:
    with pytest.raises(ValueError, match="either"):
        Snooze(**wrong)


def test_a_snooze_needs_a_time_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        Snooze(until=datetime(2026, 1, 1))  # noqa: DTZ001 - the very mistake


@pytest.mark.parametrize("stop", ["timeout", "deadline", "shutdown"])
def test_what_the_processor_decided_counts_even_when_it_was_stopped(stop: Any) -> None:
    """A wait reached in the last moment, or a refusal to ever try again, is no accident."""
    seen = Circumstances(stop=stop)

    wait = verdict(Raised(Suspended({"kind": "sleep", "name": "s"})), seen)
    final = verdict(Raised(ProcessorError("never again", retryable=False)), seen)

    assert wait is not None
    assert final is not None
    assert (wait.outcome, final.outcome) == ("waiting", "failed")


def test_a_result_too_deep_to_read_is_final() -> None:
    """It would spoil every list its job is in."""
    deep: object = 1
    for _ in range(150):
        deep = [deep]

    item = verdict(Returned(deep), Circumstances())

    assert item is not None
    assert item.outcome == "failed"
    assert item.error is not None
    assert item.error.type == "ResultRejected"
