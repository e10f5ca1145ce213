"""Which answer of the Data API becomes which error."""

from __future__ import annotations

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
    assert str(error).startswith(f"{READ_ONLY} {read_only_fix('app')[0]}")


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
