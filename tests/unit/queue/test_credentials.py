"""The credentials of a worker, and signatures of guests' network addresses."""

import hashlib
from datetime import timedelta

import httpx
import jwt
import pytest

from minutehand.clock import FrozenClock
from minutehand.config import ConfigurationError, Settings
from minutehand.queue.credentials import WorkerKey, caller_headers
from minutehand.queue.data_api import DataApi
from minutehand.queue.dependencies import HEADER, AddressSigner, calling_from
from minutehand.queue.errors import TokenRefused

SECRET = "a-test-secret-of-at-least-32-characters"


def settings(**fields: str | None) -> Settings:
    return Settings(
        supabase_url="https://project.example",
        supabase_publishable_key="sb_publishable_x",
        **fields,
    )


def token_of(key: WorkerKey) -> str:
    return key.headers()["Authorization"].removeprefix("Bearer ")


def issued_at(token: str) -> int:
    return jwt.decode(token, options={"verify_signature": False})["iat"]


def test_a_minted_key_is_a_short_lived_job_worker() -> None:
    """A worker signs a token for the role `job_worker` that is valid for ten minutes.

    It replaces the token before it expires.
    """
    clock = FrozenClock()
    key = WorkerKey(settings(supabase_jwt_secret=SECRET), clock=clock)
    first = token_of(key)

    claims = jwt.decode(first, SECRET, algorithms=["HS256"], options={"verify_exp": False})
    now = clock.now().timestamp()
    clock.advance(seconds=479)
    kept = token_of(key)
    clock.advance(seconds=1)

    assert (claims["role"], claims["iss"]) == ("job_worker", "https://project.example/auth/v1")
    # The token's time of issue is in the past, for servers whose clock is behind.
    assert claims["iat"] <= now - 30 < now < claims["exp"] <= now + 600
    assert kept == first != token_of(key)


def test_a_worker_whose_signature_is_rejected_uses_the_secret_key() -> None:
    """A worker whose signed token is rejected uses the project's secret key instead.

    A token that is rejected because of a wrong clock is replaced by one with the server's time.
    """
    given = settings(supabase_jwt_secret=SECRET, supabase_secret_key="sb_secret_x")
    clock = FrozenClock()
    key = WorkerKey(given, clock=clock)
    first = issued_at(token_of(key))

    early = TokenRefused("issued at future", code="PGRST303")
    early.server_time = clock.now() - timedelta(minutes=5)
    key.invalidate(early)
    assert issued_at(token_of(key)) - first == -300
    key.invalidate(TokenRefused("signed by an unknown key", code="PGRST301"))
    assert key.headers() == {"apikey": "sb_secret_x"}


def test_the_keys_that_let_a_worker_in_have_their_order() -> None:
    """A worker key has precedence over a JWT secret.

    A legacy secret key is also sent as a bearer token, and a new one is not.
    """
    given = WorkerKey(settings(supabase_worker_key="given", supabase_jwt_secret=SECRET))
    opaque = WorkerKey(settings(supabase_secret_key="sb_secret_x"))
    legacy = WorkerKey(settings(supabase_secret_key="e.y.J"))

    assert token_of(given) == "given"
    assert opaque.headers() == {"apikey": "sb_secret_x"}
    assert legacy.headers() == {"apikey": "e.y.J", "Authorization": "Bearer e.y.J"}
    with pytest.raises(ConfigurationError, match="SUPABASE_WORKER_KEY"):
        WorkerKey(settings())


@pytest.mark.parametrize("status", [200, 500])
async def test_a_guests_address_is_signed_with_the_time(status: int) -> None:
    """A guest's network address is sent with a signature and the time.

    Outside of a request, or without a key, it is not sent.
    """
    asked: list[httpx.Request] = []

    def give(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, json={"key": "ab" * 32})

    api = DataApi("http://127.0.0.1:1", attempts=1, transport=httpx.MockTransport(give))
    signer = AddressSigner(settings(supabase_worker_key="key"), api, FrozenClock())

    assert await signer.headers() == {}
    with calling_from("203.0.113.7"):
        result = (await signer.headers()).get(HEADER)
        assert (await signer.headers()).get(HEADER) == result

    assert len(asked) == 1, "the key, or its rejection, is requested once"
    if status == 500:
        assert result is None
        return
    assert result is not None
    address, at, signature = result.split(" ")
    key = bytes.fromhex("ab" * 32)
    inner = hashlib.sha256(key + f"{address} {at}".encode()).digest()
    assert (address, signature) == ("203.0.113.7", hashlib.sha256(key + inner).hexdigest())


@pytest.mark.parametrize("function", [None, "minutehand-prod-worker"])
def test_only_a_process_that_can_start_the_worker_says_so(function: str | None) -> None:
    """Only a process that can invoke the worker sends the header X-Minutehand-Wakes."""
    headers = caller_headers(settings(worker_function_name=function), "token")
    assert headers.get("X-Minutehand-Wakes") == ("true" if function else None)
