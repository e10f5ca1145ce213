"""Text that looks like a secret is hidden in messages, data and code. Other text stays."""

import logging
import sys

import pytest

from minutehand.log import JsonFormatter
from minutehand.redaction import HIDDEN, MAX_READ, Redactor, _chunks, without_secrets

SECRETS = ("hunter22", "abcdefghij", "c2lnbm", "AKIA", "0123456", "pa/ss", "w@rd")


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdefghijklmnop",
        "authorization: abcdefghij0123",
        "postgresql://ada:hunter22hunter@db.example/x",
        "postgresql://ada:hunter22@pa/ss@db.example:5432/x",
        "redis://:w@rd@cache.example",
        "https://abcdefghijklmnop@git.example/repo",
        "token='hunter22hunter'",
        '{"password": "hunter22hunter"}',
        "connection failed: host=db user=ada password=hunter22 port=5432",
        "x-api-key: hunter22 was refused",
        "Illegal header value b'hunter22hunter\\n'",
        "API_KEY=abcdefghij",
        "GET https://api.example/v1?page=2&api_key=hunter22 answered 401",
        "404 for 'https://api.example/v1?q=x&access_token=abcdefghij#top'",
        "https://s3.example/o?X-Amz-Signature=0123456&X-Amz-Credential=AKIA%2Fx",
        "https://blob.example/o?se=2026&sig=hunter22",
        "https://api.example/callback?state=abcdefghijklmnopqrstuv",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl",
        "sb_secret_hunter22hunter22",
        "AKIAABCDEFGHIJKLMNOP",
        "0123456789abcdef0123456789abcdef01234567",
        "Authorization: Token hunter22hunter",
        "AccountKey=hunter22hunter==;EndpointSuffix=core.windows.net",
        "-----BEGIN PRIVATE KEY-----\nhunter22\nabcdefghij\n-----END PRIVATE KEY-----",
        "POST https://hooks.slack.com/services/T0/B0/hunter22 answered 404",
        "https://api.telegram.org/bot123456:hunter22hunter22hunter/sendMessage",
        "github_pat_hunter22hunter22",
        "duplicate key value\nDETAIL:  Key (api_key)=(hunter22) already exists.",
        "1 validation error\napi_key\n  not one [type=x, input_value='hunter22', input_type=str]",
        "command failed: deploy --token hunter22",
        "the API key hunter22hunter is not valid",
        "https://api.example/login?user=ada&pass=hunter22",
        "https://api.example/login?user_pass=abcdefghij",
    ],
)
def test_what_looks_like_a_secret_is_replaced(text: str) -> None:
    """A text that looks like any vendor's secret is replaced."""
    shown = without_secrets(text)
    assert HIDDEN in shown
    assert not any(word in shown for word in SECRETS), shown


@pytest.mark.parametrize(
    "text",
    [
        "no rate for 2026-01",
        "key = rates[month]",
        '{"code": "key_revoked", "message": "This key was revoked"}',
        "token = make_token(user)",
        "password = settings.of(user).password",
        "unexpected token } in JSON",
        "KeyError: 'COLOUR' is an unknown key: colour",
        "invalid token: it has expired",
        "HTTP Basic authentication failed",
        "GET https://api.example:8080/v1/users/ada@acme.test?page=2&limit=50 answered 503",
        "no answer from postgresql://ada@db.example:5432/x",
        "psql -h db.example -p 5432 shop",
        "GET https://blog.example/?p=2026&page=3 and /?p=about-us",
        "GET https://api.example/?bypass=never&compass=north",
        "the row 4d5e6f70-0000-4000-8000-000000000001 is gone",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    """A text with ordinary words that only resemble secrets stays unchanged."""
    assert without_secrets(text) == text


def test_data_is_filtered_at_every_level_and_by_its_names() -> None:
    """Secrets in nested data are replaced, by their form and by the names of their fields.

    Numbers stay.
    """
    data = {
        "request": {"headers": [{"Authorization": "x"}, "Bearer abcdefghijklmnop"], "api_key": "k"},
        "url": "https://api.example/?token=hunter22",
        "tokens": 512,
        "status": 401,
        "key": "colour",
        "password": ["hunter22"],
        "private_key": {"pem": "hunter22", "bits": 2048},
    }

    assert Redactor().data(data) == {
        "request": {"headers": [{"Authorization": HIDDEN}, f"Bearer {HIDDEN}"], "api_key": HIDDEN},
        "url": f"https://api.example/?token={HIDDEN}",
        "tokens": 512,
        "status": 401,
        "key": "colour",
        "password": [HIDDEN],
        "private_key": {"pem": HIDDEN, "bits": 2048},
    }


@pytest.mark.parametrize("piece", ["a://b:", "-", "token='", "x" * 50 + "://"])
def test_a_text_without_end_is_matched_in_pieces_and_bounded_for_a_whole_error(piece: str) -> None:
    """Long texts are searched for secrets in pieces of limited size.

    One tenant's error therefore cannot slow down a worker.
    """
    assert max(len(part) for part in _chunks(piece * 5_000)) <= 400

    kept = Redactor().data([piece * 5_000] * 50)

    assert sum(map(len, kept)) < 2 * MAX_READ
    # If the text were cut before the search, the end of a secret would stay.
    assert without_secrets("z" * 1_200 + " b") == "z" * 400 + HIDDEN + " b"


def test_a_log_lines_exception_is_filtered() -> None:
    """Secrets in an exception are hidden in the log line."""
    try:
        raise ValueError("refused: api_key=hunter22hunter")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "failed", (), sys.exc_info())

    assert "hunter22" not in JsonFormatter().format(record)
