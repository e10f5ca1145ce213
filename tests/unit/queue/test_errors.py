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
    ("status", "body", "kind"),
    [
        *((status, None, QueueUnavailable) for status in (500, 502, 429, 408)),
        *((400, {"code": code}, QueueUnavailable) for code in ("40001", "57014", "PGRST003")),
        (401, None, TokenRefused),
        (400, {"code": "PGRST303"}, TokenRefused),
        (400, {"code": "22P02"}, QueueError),
        (400, {"code": "25006"}, DatabaseReadOnly),
    ],
)
def test_without_a_word_of_ours_the_status_and_the_code_decide(
    status: int, body: object, kind: type[QueueError]
) -> None:
    """Only what is unavailable is repeated: nothing that will fail again may be among it."""
    assert type(error_from_response(status, body)) is kind
