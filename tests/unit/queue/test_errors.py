"""Error responses of the Data API, and the exceptions that they become."""

import pytest

from minutehand.queue import errors


def ours(word: str) -> dict[str, str]:
    return {"code": "PT429", "message": "no", "details": "d-1", "hint": word}


def test_a_message_has_word_and_details_if_the_data_api_returns_nothing_else() -> None:
    """If the Data API returns only code and message, hint and details are read from the message."""
    short = {"code": "PT409", "message": "it exists (twice) (duplicate_job) [d-1]"}

    error = errors.error_from_response(409, short)

    assert isinstance(error, errors.DuplicateJob)
    assert error.message == "it exists (twice)"
    assert (error.word, error.details) == ("duplicate_job", "d-1")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (409, ours("lease_lost"), errors.LeaseLost),
        (404, ours("job_not_found"), errors.JobNotFound),
        (409, ours("duplicate_job"), errors.DuplicateJob),
        (409, ours("invalid_state"), errors.InvalidState),
        (403, ours("key_revoked"), errors.TokenRefused),
        (429, ours("a_new_word"), errors.QueueError),
        *((status, None, errors.QueueUnavailable) for status in (502, 429, 408)),
        *((400, {"code": c}, errors.QueueUnavailable) for c in ("40001", "57014", "PGRST003")),
        (401, None, errors.TokenRefused),
        (400, {"code": "PGRST303"}, errors.TokenRefused),
        (400, {"code": "22P02"}, errors.QueueError),
        (400, {"code": "25006"}, errors.DatabaseReadOnly),
    ],
)
def test_our_word_decides_the_type_or_else_code_and_status(
    status: int, body: dict[str, str] | None, kind: type[errors.QueueError]
) -> None:
    """The hint of an error decides the exception's type. Without a hint, code and status decide."""
    error = errors.error_from_response(status, body)

    assert (type(error), error.status) == (kind, status)
    if body is not None and "hint" in body:
        assert str(error) == f"no ({body['hint']}) [d-1]"
