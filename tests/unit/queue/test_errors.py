"""Which answer of the Data API becomes which error."""

from __future__ import annotations

import pytest

from minutehand.queue.errors import (
    DatabaseReadOnly,
    DuplicateJob,
    InvalidState,
    JobNotFound,
    LeaseLost,
    QueueError,
    QueueUnavailable,
    TokenRefused,
    error_from_response,
)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("lease_lost", LeaseLost),
        ("job_not_found", JobNotFound),
        ("duplicate_job", DuplicateJob),
        ("invalid_state", InvalidState),
        ("key_revoked", TokenRefused),
        ("quota_exceeded", QueueError),
        ("a_word_of_the_future", QueueError),
    ],
)
def test_the_hint_decides_the_type(word: str, kind: type[QueueError]) -> None:
    """Clients map on the stable word and never parse text; a quota's 429 is no outage."""
    body = {"code": "PT429", "message": "no", "details": "d-1", "hint": word}

    error = error_from_response(429, body)

    assert type(error) is kind
    assert (error.word, error.details, error.status) == (word, "d-1", 429)
    assert str(error) == f"no ({word}) [d-1]"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, None),
        (502, "<html>"),
        (429, {"message": "slow down"}),
        (408, None),
        *((400, {"code": code}) for code in ("40001", "40P01", "57014", "08006", "PGRST003")),
    ],
)
def test_what_may_pass_by_itself_is_unavailable(status: int, body: object) -> None:
    """Only these are repeated, so nothing that will fail again may be among them."""
    assert type(error_from_response(status, body)) is QueueUnavailable


@pytest.mark.parametrize(
    ("status", "body"), [(401, None), (401, {"code": "PGRST301"}), (400, {"code": "PGRST303"})]
)
def test_a_refused_token_is_distinguished(status: int, body: object) -> None:
    assert type(error_from_response(status, body)) is TokenRefused


def test_a_database_that_takes_no_writes_says_how_to_free_it() -> None:
    error = error_from_response(400, {"code": "25006"}, schema="app")

    assert type(error) is DatabaseReadOnly
    assert "vacuum full app.jobs" in str(error)
