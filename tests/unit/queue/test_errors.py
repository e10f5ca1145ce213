"""Which answer of the Data API becomes which error."""

from __future__ import annotations

import json

import pytest

from minutehand.queue import (
    DuplicateJob,
    InvalidState,
    JobNotFound,
    LeaseLost,
    QueueError,
    QueueUnavailable,
    TokenRefused,
)
from minutehand.queue.errors import (
    READ_ONLY,
    DatabaseReadOnly,
    ProcessorError,
    StepsTooLong,
    error_from_response,
    read_only_fix,
)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("lease_lost", LeaseLost),
        ("job_not_found", JobNotFound),
        ("duplicate_job", DuplicateJob),
        ("invalid_state", InvalidState),
        ("key_revoked", TokenRefused),
        ("payload_invalid", QueueError),
        ("a_word_of_the_future", QueueError),
    ],
)
def test_the_hint_decides_the_type(word: str, kind: type[QueueError]) -> None:
    """Clients map on the stable word and never parse text."""
    body = {"code": "PT409", "message": "no", "details": "d-1", "hint": word}

    error = error_from_response(409, body)

    assert type(error) is kind
    assert (error.word, error.details, error.status) == (word, "d-1", 409)


def test_a_duplicate_names_the_job_already_there() -> None:
    error = error_from_response(
        409, {"code": "PT409", "message": "there", "details": "job-7", "hint": "duplicate_job"}
    )

    assert isinstance(error, DuplicateJob)
    assert error.job_id == "job-7"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, None),
        (503, {"code": "PGRST002", "message": "no schema"}),
        (429, {"message": "slow down"}),
        (408, None),
        (425, None),
        (400, {"code": "40001", "message": "could not serialize"}),
        (400, {"code": "40P01", "message": "deadlock detected"}),
        (400, {"code": "57014", "message": "statement timeout"}),
        (400, {"code": "08006", "message": "connection failure"}),
        *((400, {"code": code}) for code in ("53300", "55P03", "57P01", "57P02", "57P03")),
        *((400, {"code": f"PGRST00{digit}"}) for digit in "0123"),
        (502, "<html>"),
    ],
)
def test_what_may_pass_by_itself_is_unavailable(status: int, body: object) -> None:
    """Only these are repeated, so nothing that will fail again may be among them."""
    assert type(error_from_response(status, body)) is QueueUnavailable


def test_a_quota_is_no_outage_although_it_answers_429() -> None:
    """Repeating an enqueue over quota would only make it worse."""
    error = error_from_response(
        429, {"code": "PT429", "message": "too many", "hint": "quota_exceeded"}
    )

    assert type(error) is QueueError
    assert error.word == "quota_exceeded"


@pytest.mark.parametrize(
    ("status", "body"), [(401, None), (401, {"code": "PGRST301"}), (400, {"code": "PGRST303"})]
)
def test_a_refused_token_is_distinguished(status: int, body: object) -> None:
    assert type(error_from_response(status, body)) is TokenRefused


def test_a_database_that_takes_no_writes_says_how_to_free_it() -> None:
    error = error_from_response(400, {"code": "25006", "message": "read-only"}, schema="app")

    assert type(error) is DatabaseReadOnly
    assert str(error).startswith(f"{READ_ONLY} {'; '.join(read_only_fix('app'))}")
    assert isinstance(error, QueueUnavailable)
    assert not error.unsent


def test_a_database_is_freed_by_shorter_retention_and_smaller_tables() -> None:
    """In this order: without the first each other is refused, and the last gives the space back."""
    off, settings, maintenance, *vacuums = read_only_fix()

    assert off == "set default_transaction_read_only = off"
    for statement, call in ((settings, "set_settings"), (maintenance, "run_maintenance")):
        text = statement.removeprefix(f"select public.{call}('").removesuffix("')")
        assert json.loads(text), "it is JSON"
    assert vacuums == [
        f"vacuum full public.{table}" for table in ("job_events", "job_logs", "jobs")
    ]


def test_an_answer_without_words_is_named_by_its_status() -> None:
    error = error_from_response(418, ["what"])

    assert type(error) is QueueError
    assert error_from_response(409, {"code": "PT409"}).word == ""
    assert str(error) == "the Data API answered 418"
    assert (error.status, error.code, error.details, error.hint) == (418, "", None, None)


def test_a_refusal_of_a_change_names_the_present_status() -> None:
    error = error_from_response(
        409, {"code": "PT409", "details": "completed", "hint": "invalid_state"}
    )

    assert isinstance(error, InvalidState)
    assert error.present == "completed"
    assert str(error) == "the Data API answered 409 (invalid_state) [completed]"


def test_a_processors_error_is_tried_again_unless_it_says_otherwise() -> None:
    error, long = ProcessorError("no"), StepsTooLong("j")

    assert (str(error), error.retryable, error.retry_after, error.data) == ("no", True, None, None)
    told = ProcessorError("no", retryable=False, retry_after=3, data={"a": 1})
    assert (told.retryable, told.retry_after, told.data) == (False, 3, {"a": 1})
    assert not long.retryable, "it would be as long the next time"
    assert "job j have more than 64000000 bytes" in str(long)


@pytest.mark.parametrize("details", [None, "job-7"])
def test_an_error_says_all_that_is_known_of_it(details: str | None) -> None:
    body = {"code": "PT409", "message": "no", "details": details, "hint": "invalid_state"}
    error = error_from_response(409, body)

    assert (error.message, error.hint, error.code) == ("no", "invalid_state", "PT409")
    assert "no" in str(error)
    assert ("[job-7]" in str(error)) == (details is not None)


def test_a_hint_of_postgres_itself_is_no_word() -> None:
    """PostgREST and Postgres write sentences into hints; only PTnnn errors carry our words."""
    error = error_from_response(
        404, {"code": "PGRST202", "message": "no function", "hint": "Perhaps you meant …"}
    )

    assert error.word == ""
