"""User tokens: which are accepted, and how forgeries are rejected."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from fastapi import APIRouter, FastAPI

from minutehand.clock import FrozenClock
from minutehand.web.application import create_app
from minutehand.web.auth import MaybeGuest, SignedIn, StreamReader, UserOrGuest
from minutehand.web.caller import Caller, InvalidToken
from minutehand.web.errors import ApiError
from minutehand.web.services import Services
from minutehand.web.tokens import TokenVerifier
from tests.unit.web.conftest import ADA, SETTINGS, Signer, calling, claims, secret_token


class KeyServer:
    """Supabase Auth's endpoint for public keys. It counts requests and may fail."""

    def __init__(self, *signers: Signer) -> None:
        self.keys: list[Any] = [signer.jwk for signer in signers]
        self.asked = 0
        self.status = 200

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/auth/v1/.well-known/jwks.json"
        assert request.headers["apikey"] == "sb_publishable_test"
        self.asked += 1
        return httpx.Response(self.status, json={"keys": self.keys})


def verifier(server: KeyServer, clock: FrozenClock | None = None, **changes: Any) -> TokenVerifier:
    settings, transport = SETTINGS.model_copy(update=changes), httpx.MockTransport(server)
    return TokenVerifier(settings, clock or FrozenClock(), transport=transport)


async def refusal(verify: TokenVerifier, token: str) -> str:
    with pytest.raises(InvalidToken) as refused:
        await verify.verify(token)
    return str(refused.value)


@pytest.mark.parametrize("kind", ["legacy secret", "es256", "rs256"])
async def test_a_users_token_is_recognised(kind: str, request: pytest.FixtureRequest) -> None:
    """A token that is signed with ES256, RS256 or the legacy secret is accepted.

    In the issuer of a token, 127.0.0.1 and localhost are the same.
    """
    if kind == "legacy secret":
        server, token = KeyServer(), secret_token(iss="http://127.0.0.1:54321/auth/v1")
        verify = verifier(server, supabase_url="http://localhost:54321")
    else:
        signer: Signer = request.getfixturevalue(kind)
        server, token = KeyServer(signer), signer.token()
        verify = verifier(server)

    caller = await verify.verify(token)

    assert caller.user_id == UUID(ADA)
    assert caller.token == token
    assert token not in repr(caller)
    assert server.asked == len(server.keys)


def _forged(algorithm: str, sign: Callable[[bytes], bytes], **header: str) -> str:
    """Return a token with this algorithm and the signature that `sign` returns."""
    header = {"alg": algorithm, "typ": "JWT", **header}
    parts = [json.dumps(part).encode() for part in (header, claims())]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    return (text + b"." + base64.urlsafe_b64encode(sign(text)).rstrip(b"=")).decode()


async def test_a_forged_token_is_refused(rs256: Signer, es256: Signer) -> None:
    """A token without a signature, or signed with the public key as a secret, is rejected.

    Projects may share a key, so a token signed with a key also needs an issuer.
    """
    verify = verifier(KeyServer(rs256, es256))
    await verify.verify(rs256.token())
    await refusal(verify, rs256.token(iss=None))
    for algorithm in ("none", "NONE"):
        await refusal(verify, _forged(algorithm, lambda _: b""))
    for signer in (rs256, es256):
        pem = signer.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        sign = partial(hmac.digest, pem, digest="sha256")
        forged = _forged("HS256", sign, kid=signer.kid)

        assert await refusal(verify, forged) == "the token's algorithm does not match its key"


NOW = int(time.time())


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"exp": NOW - 31}, "has expired"),
        ({"exp": None}, "is malformed"),
        ({"nbf": NOW + 36_000}, "is not valid yet"),
        ({"aud": "other"}, "has another audience"),
        ({"iss": "https://elsewhere.example/auth/v1"}, "has another issuer"),
        ({"sub": "not-a-uuid"}, "names no subject"),
        ({"role": "anon"}, "does not belong to a signed-in user"),
    ],
)
async def test_a_token_that_does_not_fit_is_refused(changes: dict[str, Any], result: str) -> None:
    """A token that has expired, or that was issued for another purpose, is rejected."""
    verify = verifier(KeyServer())

    await verify.verify(secret_token(exp=int(time.time()) - 2))  # clocks differ
    assert await refusal(verify, secret_token(**changes)) == f"the token {result}"


async def test_keys_are_fetched_again_when_old_and_kept_while_auth_is_unavailable(
    es256: Signer,
) -> None:
    """Public keys are fetched again when they are old, and kept while Auth is unavailable.

    Before the first fetch succeeds, requests get 503.
    """
    server = KeyServer(es256)
    server.status = 502
    clock = FrozenClock()
    verify = verifier(server, clock)
    for _ in range(2):
        with pytest.raises(ApiError) as refused:
            await verify.verify(es256.token())
        assert refused.value.status_code == 503
        assert refused.value.headers == {"Retry-After": "5"}
    assert server.asked == 1
    clock.advance(seconds=60)
    server.status = 200
    await verify.verify(es256.token())
    await refusal(verify, es256.token(headers={"kid": "unknown"}))
    asked = server.asked

    server.status = 500
    clock.advance(seconds=600)
    await verify.verify(es256.token())
    assert server.asked == asked, "the keys are not old yet"
    clock.advance(seconds=1)
    for _ in range(2):
        await verify.verify(es256.token())
    server.status = 200
    for _ in range(3):
        clock.advance(seconds=61)
        await verify.verify(es256.token())
    assert server.asked == asked + 2
    server.keys = []
    clock.advance(seconds=601)

    await refusal(verify, es256.token())


def app_of(**changes: Any) -> FastAPI:
    """Return an app with a route for each kind of caller. A route returns the caller's kind."""
    router = APIRouter()

    def of(caller: Caller | None) -> str:
        return "guest" if caller is None else "user" if caller.user_id else "service"

    @router.get("/user")
    async def user(caller: SignedIn) -> str:
        return of(caller)

    @router.get("/stream")
    async def stream(caller: StreamReader) -> str:
        return of(caller)

    @router.get("/sessions/{session_id}")
    async def session(session_id: str, caller: MaybeGuest) -> str:
        return of(caller)

    @router.get("/open")
    async def open_to_guests(caller: UserOrGuest) -> str:
        return of(caller)

    chosen = SETTINGS.model_copy(update={"allow_anonymous": True, **changes})
    return create_app(Services(chosen, clock=FrozenClock()), [router])


@pytest.fixture(scope="module")
def apps() -> tuple[FastAPI, FastAPI]:
    """An app that accepts guests, and one that does not."""
    return app_of(), app_of(allow_anonymous=False)


STREAM, TOKEN = {"accept": "text/event-stream"}, {"authorization": "Bearer {token}"}
GUEST, IN_ADDRESS = f"/sessions/guest_{'a' * 64}", "?access_token={token}"


@pytest.mark.parametrize(
    ("path", "headers", "answer"),
    [
        ("/user", TOKEN, "user"),
        ("/user", {"apikey": "sb_publishable_x"}, "missing"),
        ("/user", {"authorization": "Bearer x"}, "invalid"),
        ("/user" + IN_ADDRESS, STREAM, "missing"),
        ("/stream" + IN_ADDRESS, STREAM, "user"),
        ("/stream" + IN_ADDRESS, {}, "missing"),
        (GUEST, {}, "guest"),
        (GUEST, {"authorization": "Bearer x"}, "invalid"),
        ("/sessions/of-a-user", STREAM, "missing"),
        ("/open", {}, "guest"),
        ("/open", {"authorization": "Bearer x"}, "invalid"),
        ("/open" + IN_ADDRESS, {}, "missing"),
    ],
)
async def test_a_route_takes_a_token_or_a_guest_where_it_may(
    apps: tuple[FastAPI, FastAPI], path: str, headers: dict[str, str], answer: str | None
) -> None:
    """Each route accepts only the kinds of callers that it allows.

    Only streams accept a token in the URL, because EventSource sends no header.
    """
    token = secret_token()

    address = path.format(token=token)
    sent = {name: value.format(token=token) for name, value in headers.items()}

    async with calling(apps[0]) as client:
        response = await client.get(address, headers=sent)
    async with calling(apps[1]) as client:
        closed = await client.get(address, headers=sent)

    challenge = response.headers.get("www-authenticate", "")
    refused = "invalid" if "invalid_token" in challenge else "missing"
    assert (response.json() if response.status_code == 200 else refused) == answer
    assert response.status_code == (401 if challenge else 200)
    assert answer != "invalid" or response.json()["detail"] == "the token is malformed"
    assert closed.status_code == (401 if answer == "guest" else response.status_code)


async def test_a_user_has_so_many_requests_under_way() -> None:
    """Four requests of a user run at once, 200 more wait, and further ones get 429."""
    app, ended, running = app_of(), asyncio.Event(), 0

    @app.get("/slow")
    async def slow(_: SignedIn) -> bool:
        nonlocal running
        running += 1
        return await ended.wait()

    headers = {"authorization": f"Bearer {secret_token()}"}
    async with calling(app) as client:
        held = [asyncio.create_task(client.get("/slow", headers=headers)) for _ in range(204)]
        for _ in range(1000):  # until each request is running or waits
            await asyncio.sleep(0)
        began = running
        refused = await client.get("/slow", headers=headers)
        ended.set()
        answers = await asyncio.gather(*held)
        answers.append(await client.get("/slow", headers=headers))

    assert began == 4
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert {answer.status_code for answer in answers} == {200}
