"""How workers sign in."""

from __future__ import annotations

from datetime import UTC, datetime

import jwt
import pytest

from minutehand.clock import FrozenClock
from minutehand.config import ConfigurationError, Settings
from minutehand.queue import keys
from minutehand.queue.keys import (
    WorkerKey,
    caller_headers,
    days_left,
    is_guest_session,
    redacted,
)
from minutehand.telemetry import current_traceparent

SECRET = "a-test-secret-of-at-least-32-characters"


def settings(**fields: str) -> Settings:
    return Settings(
        supabase_url="https://project.example",
        supabase_publishable_key="sb_publishable_x",
        **fields,
    )


def token_of(key: WorkerKey) -> str:
    headers = key.headers()
    assert headers["apikey"] == "sb_publishable_x"
    return headers["Authorization"].removeprefix("Bearer ")


def test_a_minted_key_is_a_short_lived_job_worker() -> None:
    """A leaked key must be worth little: one role, ten minutes."""
    clock = FrozenClock()
    key = WorkerKey(settings(supabase_jwt_secret=SECRET), clock=clock)

    claims = jwt.decode(token_of(key), SECRET, algorithms=["HS256"], options={"verify_exp": False})

    now = clock.now().timestamp()
    assert claims["role"] == "job_worker"
    assert claims["iss"] == "https://project.example/auth/v1"
    # from a while ago for a server whose clock is behind
    assert claims["iat"] <= now - 30 < now < claims["exp"] <= now + 600


def test_a_key_is_kept_until_shortly_before_it_ends() -> None:
    """Minting for every call would be waste; using one to its last second would be refused."""
    clock = FrozenClock()
    key = WorkerKey(settings(supabase_jwt_secret=SECRET), clock=clock)
    first = token_of(key)

    clock.advance(seconds=479)
    assert token_of(key) == first

    clock.advance(seconds=1)
    assert token_of(key) != first


def test_a_forgotten_key_is_created_again() -> None:
    clock = FrozenClock()
    key = WorkerKey(settings(supabase_jwt_secret=SECRET), clock=clock)
    first = token_of(key)

    clock.advance(seconds=1)
    key.forget()

    assert token_of(key) != first


def test_a_given_key_wins() -> None:
    key = WorkerKey(settings(supabase_worker_key="given", supabase_jwt_secret=SECRET))

    assert token_of(key) == "given"


def test_an_opaque_secret_key_is_the_apikey_and_no_bearer() -> None:
    """It is no JWT; a legacy key is."""
    headers = WorkerKey(settings(supabase_secret_key="sb_secret_x")).headers()
    legacy = WorkerKey(settings(supabase_secret_key="e.y.J")).headers()

    assert headers == {"apikey": "sb_secret_x"}
    assert legacy == {"apikey": "e.y.J", "Authorization": "Bearer e.y.J"}


def test_the_days_that_a_key_is_valid_are_read_from_it() -> None:
    """Unverified: the database judges, this only warns."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for more in ("", "x", "xx", "xxx"):  # each length that base64 pads otherwise
        claims = {"exp": int(now.timestamp()) + 3 * 86_400, "more": more}
        assert days_left(jwt.encode(claims, SECRET, "HS256"), now) == 3

    assert days_left(jwt.encode({"exp": int(now.timestamp()) - 86_400}, SECRET, "HS256"), now) == -1
    for other in (
        None,
        "",
        "sb_secret_x",
        "a.b.c",
        "a.W10.c",
        jwt.encode({"role": "x"}, SECRET, "HS256"),
    ):
        assert days_left(other, now) is None


def test_without_any_key_the_missing_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match="SUPABASE_WORKER_KEY"):
        WorkerKey(settings())


def test_a_caller_is_let_in_by_its_own_token_and_a_guest_by_none() -> None:
    guest = {"apikey": "sb_publishable_x"}

    assert current_traceparent() is None
    assert caller_headers(settings(), None) == guest
    assert caller_headers(settings(), "jwt") == {**guest, "Authorization": "Bearer jwt"}


def test_jobs_keep_the_trace_of_who_made_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a name of ours: a gateway may set `traceparent` to a span of its own."""
    monkeypatch.setattr(keys, "current_traceparent", lambda: "00-trace")

    assert caller_headers(settings(), None)["X-Minutehand-Trace"] == "00-trace"


def test_a_guest_session_is_known_by_its_id() -> None:
    assert is_guest_session("guest_0a")
    assert not is_guest_session("session_guest_0a")


def test_a_minted_key_says_what_it_is() -> None:
    """Some verifiers refuse a token without its type."""
    token = token_of(WorkerKey(settings(supabase_jwt_secret=SECRET)))

    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}


def test_the_id_of_a_guest_session_is_left_out_of_logs() -> None:
    """In a topic, in a reason, wherever it stands: whoever reads the log must not hold a key."""
    session = "guest_" + "0a" * 32

    assert redacted(f"realtime:session:{session}") == "realtime:session:guest_…"
    assert session not in redacted(f"You do not have permission to read from session:{session}!")
    assert redacted("workspace:1") == "workspace:1"
