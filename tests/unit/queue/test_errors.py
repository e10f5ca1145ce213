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


def ours(word: str) -> dict[str, str]:
    return {"code": "PT429", "message": "no", "details": "d-1", "hint": word}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (409, ours("lease_lost"), LeaseLost),
        (404, ours("job_not_found"), JobNotFound),
        (409, ours("duplicate_job"), DuplicateJob),
        (409, ours("invalid_state"), InvalidState),
        (403, ours("key_revoked"), TokenRefused),
        # no outage
        *((429, ours(word), QueueError) for word in ("quota_exceeded", "a_word_of_the_future")),
        *((status, None, QueueUnavailable) for status in (500, 502, 429, 408)),
        *((400, {"code": code}, QueueUnavailable) for code in ("40001", "57014", "PGRST003")),
        (401, None, TokenRefused),
        (400, {"code": "PGRST303"}, TokenRefused),
        (400, {"code": "22P02"}, QueueError),
        (400, {"code": "25006"}, DatabaseReadOnly),
    ],
)
def test_our_word_decides_the_type_or_else_code_and_status(
    status: int, body: dict[str, str] | None, kind: type[QueueError]
) -> None:
    """No text is parsed; only what is unavailable is repeated, and nothing that fails again."""
    error = error_from_response(status, body)

    assert (type(error), error.status) == (kind, status)
    if body is not None and "hint" in body:
        assert str(error) == f"no ({error.word}) [{error.details}]" == f"no ({body['hint']}) [d-1]"
