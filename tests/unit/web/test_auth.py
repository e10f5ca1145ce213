"""User tokens: what is accepted, and every known way to forge one."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from fastapi import APIRouter, FastAPI

from minutehand.clock import FrozenClock
from minutehand.config import Settings
from minutehand.functions.worker.routes import token_matches
from minutehand.web.application import create_app
from minutehand.web.auth import (
    GuestSessionId,
    MaybeGuest,
    OperatorCredentials,
    SignedIn,
    StreamReader,
    UserOrGuest,
    named_guest_session,
)
from minutehand.web.caller import Caller, InvalidToken, token_of
from minutehand.web.errors import ApiError
from minutehand.web.services import Services
from minutehand.web.tokens import TokenVerifier
from tests.unit.web.conftest import ADA, ISSUER, SECRET, Signer, calling, claims

MakeToken = Callable[..., str]


class KeyServer:
    """Auth's key endpoint: counts how often it is asked and may fail."""

    def __init__(self, *signers: Signer) -> None:
        self.keys: list[Any] = [signer.jwk for signer in signers]
        self.asked = 0
        self.status = 200
        self.page: str | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/auth/v1/.well-known/jwks.json"
        assert request.headers["apikey"] == "sb_publishable_test"
        waits = request.extensions["timeout"]
        assert (waits["connect"], waits["read"]) == (2, 5), "a request waits for Auth no longer"
        self.asked += 1
        if self.page is not None:
            return httpx.Response(self.status, text=self.page)
        return httpx.Response(self.status, json={"keys": self.keys})


def verifier(
    settings: Settings, server: KeyServer | None = None, clock: FrozenClock | None = None
) -> TokenVerifier:
    transport = httpx.MockTransport(server or KeyServer())
    return TokenVerifier(settings, clock or FrozenClock(), transport=transport)


async def refusal(verify: TokenVerifier, token: str) -> str:
    with pytest.raises(InvalidToken) as refused:
        await verify.verify_user(token)
    return str(refused.value)


async def test_a_user_signed_by_the_legacy_secret_is_recognised(
    settings: Settings, secret_token: MakeToken
) -> None:
    """Local stacks and older projects sign with a shared secret."""
    token = secret_token(is_anonymous=True, app_metadata={"plan": "x"})

    caller = await verifier(settings).verify_user(token)

    assert caller.user_id == UUID(ADA)
    assert caller.token == token
    assert token not in repr(caller)


@pytest.mark.parametrize("kind", ["es256", "rs256"])
async def test_a_user_signed_by_a_published_key_is_recognised(
    settings: Settings, kind: str, request: pytest.FixtureRequest
) -> None:
    """Projects sign with ES256 by default, some with RS256."""
    signer: Signer = request.getfixturevalue(kind)
    server = KeyServer(signer)

    caller = await verifier(settings, server).verify_user(signer.token())

    assert caller.user_id == UUID(ADA)
    assert server.asked == 1


async def test_a_snapshot_of_the_keys_spares_the_first_request_a_fetch(
    settings: Settings, es256: Signer
) -> None:
    """A cold start must not wait for Auth."""
    server = KeyServer(es256)
    known = settings.model_copy(update={"supabase_jwks": {"keys": [es256.jwk]}})

    await verifier(known, server).verify_user(es256.token())

    assert server.asked == 0


async def test_the_secret_may_be_absent(settings: Settings, es256: Signer) -> None:
    """A project that never had a legacy secret has only published keys."""
    modern = settings.model_copy(update={"supabase_jwt_secret": None})

    caller = await verifier(modern, KeyServer(es256)).verify_user(es256.token())

    assert caller.role == "authenticated"


async def test_a_missing_issuer_is_accepted_only_from_the_projects_own_secret(
    settings: Settings, secret_token: MakeToken, es256: Signer
) -> None:
    """The local stack's tokens name none; a published key's always do."""
    verify = verifier(settings, KeyServer(es256))

    await verify.verify_user(secret_token(iss=None))

    for _ in ("the key is fetched", "the key is known"):
        for claim in ("iss", "exp"):
            assert await refusal(verify, es256.token(**{claim: None})) == "the token is malformed"


def _unsigned(header: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(body).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


async def test_an_unsigned_token_is_refused(settings: Settings) -> None:
    """`alg: none`, with and without something in the signature's place."""
    verify = verifier(settings)

    for algorithm in ("none", "None", "NONE"):
        for signature in (b"", b"x"):
            token = _unsigned({"alg": algorithm, "typ": "JWT"}, claims(), signature)
            await refusal(verify, token)


async def test_a_public_key_is_never_taken_for_a_shared_secret(
    settings: Settings, rs256: Signer, es256: Signer
) -> None:
    """Algorithm confusion: HS256 keyed with what everybody can download."""
    import hashlib
    import hmac

    known = settings.model_copy(update={"supabase_jwks": {"keys": [rs256.jwk, es256.jwk]}})
    verify = verifier(known)
    for signer in (rs256, es256):
        pem = signer.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        unsigned = _unsigned({"alg": "HS256", "typ": "JWT", "kid": signer.kid}, claims())[:-1]
        mac = hmac.new(pem, unsigned.encode(), hashlib.sha256).digest()
        forged = f"{unsigned}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"

        assert await refusal(verify, forged) == "the token's algorithm does not match its key"


async def test_the_legacy_secret_does_not_vouch_for_a_published_keys_id(
    settings: Settings, es256: Signer
) -> None:
    """A key id picks its key, and that key alone."""
    known = settings.model_copy(update={"supabase_jwks": {"keys": [es256.jwk]}})
    token = jwt.encode(claims(), SECRET, "HS256", headers={"kid": es256.kid})

    assert await refusal(verifier(known), token) == "the token's algorithm does not match its key"


async def test_a_symmetric_key_in_the_key_set_is_ignored(settings: Settings) -> None:
    """A published secret is no secret."""
    oct_key = {
        "kty": "oct",
        "kid": "shared",
        "alg": "HS256",
        "k": base64.urlsafe_b64encode(b"published-shared-secret-of-32-bytes!").decode(),
    }
    server = KeyServer()
    server.keys = [oct_key]
    token = jwt.encode(
        claims(), "published-shared-secret-of-32-bytes!", "HS256", headers={"kid": "shared"}
    )

    assert await refusal(verifier(settings, server), token) == "the token's signature is wrong"


@pytest.mark.parametrize(
    "entry", ["text", {"use": "enc"}, {"alg": "RS256"}, {"kid": 5}, {"x": "!"}]
)
async def test_an_entry_that_is_no_key_for_signatures_is_ignored(
    settings: Settings, es256: Signer, entry: Any
) -> None:
    """And costs none of the keys beside it."""
    server = KeyServer(es256)
    other = entry if isinstance(entry, str) else {**es256.jwk, "kid": "other", **entry}
    server.keys.insert(0, other)
    verify = verifier(settings, server)

    await verify.verify_user(es256.token())
    await refusal(verify, es256.token(headers={"kid": "other"}))


async def test_another_keys_signature_under_a_known_id_is_refused(
    settings: Settings, es256: Signer, rs256: Signer
) -> None:
    """The key id is only a name."""
    known = settings.model_copy(update={"supabase_jwks": {"keys": [es256.jwk, rs256.jwk]}})
    stranger = Signer(es256.kid, "RS256", rs256.private)

    assert (
        await refusal(verifier(known), stranger.token())
        == "the token's algorithm does not match its key"
    )


async def test_times_are_checked_with_little_leeway(
    settings: Settings, secret_token: MakeToken
) -> None:
    """A revoked user keeps access no longer than the token lives."""
    verify = verifier(settings)
    now = int(time.time())

    await verify.verify_user(secret_token(exp=now - 2))
    assert await refusal(verify, secret_token(exp=now - 31)) == "the token has expired"
    assert await refusal(verify, secret_token(nbf=now + 60)) == "the token is not valid yet"
    assert await refusal(verify, secret_token(iat=now + 600)) == "the token is not valid yet"
    assert await refusal(verify, secret_token(exp=None)) == "the token is malformed"
    assert await refusal(verify, secret_token(exp="soon")) == "the token is malformed"
    for never in (10**12, 10**17, 10**400):
        far = await verify.verify_user(secret_token(exp=never))
        assert (far.expires_at.year, far.expires_at.tzinfo) == (9999, UTC)


async def test_claims_that_do_not_fit_are_refused(
    settings: Settings, secret_token: MakeToken
) -> None:
    """A token for something else is no token for this."""
    verify = verifier(settings)

    for changes in (
        {"aud": "other"},
        {"aud": None},
        {"aud": ["x", "y"]},
        {"iss": "https://elsewhere.example/auth/v1"},
        {"iss": f"{ISSUER}/"},
        {"sub": None},
        {"sub": ""},
        {"sub": "not-a-uuid"},
        {"sub": 42},
        {"role": "anon"},
        {"role": "service_role"},
        {"role": "job_worker"},
        {"role": None},
    ):
        await refusal(verify, secret_token(**changes))
    await verify.verify_user(secret_token(aud=["authenticated", "x"]))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "a.b",
        "a.b.c.d",
        "é.é.é",
        "x" * 10_000,
        "Bearer a.b.c",
        "\x00.\x00.\x00",
    ],
)
async def test_rubbish_is_refused_as_malformed(settings: Settings, token: str) -> None:
    """Nothing a header can hold may end in a 500."""
    assert await refusal(verifier(settings), token) == "the token is malformed"


async def test_a_token_of_any_length_is_not_read(
    settings: Settings, secret_token: MakeToken
) -> None:
    """Nor kept for as long as its stream is open."""
    verify = verifier(settings)

    await verify.verify_user(secret_token(app_metadata="x" * 5_000))
    assert await refusal(verify, secret_token(app_metadata="x" * 8_000)) == "the token is malformed"
    parts = [secret_token(app_metadata="x" * more).rpartition(".")[0] for more in range(4)]
    signed = next(part for part in parts if (8191 - len(part)) % 4 == 2)  # decodable with one more
    for length, reason in ((8192, "the token's signature is wrong"), (8193, "malformed")):
        assert reason in await refusal(verify, f"{signed}.".ljust(length, "A"))


async def test_headers_and_bodies_of_odd_json_are_refused(settings: Settings) -> None:
    """The parts are attacker's input before the signature is checked."""
    verify = verifier(settings)

    headers: list[Any] = [{"alg": 1}, {"alg": "HS256", "kid": 5}, {"alg": "HS256", "kid": {}}, []]
    for header in headers:
        await refusal(verify, _unsigned(header, claims(), b"x"))
    await refusal(verify, _unsigned({"alg": "HS256"}, ["no", "claims"], b"x"))  # type: ignore[arg-type]


async def test_an_unknown_key_is_asked_for_at_most_once_a_minute(
    settings: Settings, es256: Signer
) -> None:
    """Forged key ids must not become requests to Auth."""
    server = KeyServer()
    clock = FrozenClock()
    verify = verifier(settings, server, clock)

    clock.advance(seconds=100)
    other = jwt.encode(claims(), "another-secret-than-the-projects-own", "HS256")
    assert await refusal(verify, other) == "the token's signature is wrong"
    assert server.asked == 0, "it names no key to ask for"
    for _ in range(5):
        await refusal(verify, es256.token())
    assert server.asked == 1
    clock.advance(seconds=60)
    server.keys = [es256.jwk]
    await verify.verify_user(es256.token())
    assert server.asked == 2


async def test_keys_are_fetched_again_when_old_and_kept_while_auth_is_unavailable(
    settings: Settings, es256: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    """A revoked key is forgotten; an outage of Auth locks nobody out."""
    server = KeyServer(es256)
    clock = FrozenClock()
    verify = verifier(settings, server, clock)
    await verify.verify_user(es256.token())

    server.status = 500
    clock.advance(seconds=600)
    await verify.verify_user(es256.token())
    assert server.asked == 1, "they are not old yet"
    clock.advance(seconds=1)
    for _ in range(2):
        await verify.verify_user(es256.token())
    said = [record.__dict__["event"] for record in caplog.records]
    assert said == ["auth.keys_failed", "auth.keys_stale"]
    server.status = 200
    for _ in range(3):
        clock.advance(seconds=61)
        await verify.verify_user(es256.token())
    assert server.asked == 3
    server.keys = []
    clock.advance(seconds=601)

    await refusal(verify, es256.token())


@pytest.mark.parametrize(
    ("status", "page"), [(502, None), (200, "<html>"), (200, "[]"), (200, '{"keys": 5}')]
)
async def test_keys_that_cannot_be_fetched_are_a_503_and_no_401(
    settings: Settings, es256: Signer, status: int, page: str | None
) -> None:
    """The token may be good; its holder must not be signed out, nor the next one."""
    server = KeyServer(es256)
    server.status, server.page = status, page
    clock = FrozenClock()
    verify = verifier(settings, server, clock)

    for _ in range(2):
        with pytest.raises(ApiError) as refused:
            await verify.verify_user(es256.token())
        assert refused.value.status_code == 503
        assert refused.value.headers is not None
        assert refused.value.headers["Retry-After"] == "5"
    assert server.asked == 1

    clock.advance(seconds=60)
    server.status, server.page = 200, None
    await verify.verify_user(es256.token())
    await refusal(verify, es256.token(headers={"kid": "unknown"}))


async def test_requests_that_arrive_together_wait_for_the_same_keys(
    settings: Settings, es256: Signer
) -> None:
    """A page opens with several; all but the first would be signed out."""
    server = KeyServer(es256)

    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        return server(request)

    verify = TokenVerifier(settings, FrozenClock(), transport=httpx.MockTransport(answer))
    callers = await asyncio.gather(*(verify.verify_user(es256.token()) for _ in range(3)))

    assert [str(caller.user_id) for caller in callers] == [ADA] * 3
    assert server.asked == 1


async def test_a_token_of_the_legacy_secret_is_no_reason_to_ask_for_keys(
    settings: Settings, secret_token: MakeToken
) -> None:
    """A project without signing keys has none to get old, and an ended token is just that."""
    server = KeyServer()
    clock = FrozenClock()
    verify = verifier(settings, server, clock)

    clock.advance(seconds=601)
    await verify.verify_user(secret_token())
    ended = secret_token(headers={"kid": "of-the-secret"}, exp=int(time.time()) - 60)
    assert await refusal(verify, ended) == "the token has expired"
    assert server.asked == 0
    alone = verifier(settings.model_copy(update={"supabase_jwt_secret": None}), server)
    assert await refusal(alone, secret_token()) == "the token's signing key is unknown"


async def test_a_signature_has_one_spelling(settings: Settings, secret_token: MakeToken) -> None:
    """What decoders skip would make many tokens of one."""
    verify = verifier(settings)

    for more in ("!", "=", "\n"):
        assert await refusal(verify, secret_token() + more) == "the token is malformed"


async def test_a_published_key_that_cannot_be_read_is_said_in_the_log(
    settings: Settings, es256: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    """Its holders are refused for no fault of theirs."""
    server = KeyServer()
    server.keys = [{**es256.jwk, "x": "!"}]

    await refusal(verifier(settings, server), es256.token())

    [record] = caplog.records
    assert (record.__dict__["event"], record.__dict__["kid"]) == ("auth.key_unusable", es256.kid)


async def test_the_service_role_is_distinguished_from_users(
    settings: Settings, secret_token: MakeToken
) -> None:
    """Operators may sign in with the project's legacy service key."""
    verify = verifier(settings)
    key = secret_token(role="service_role", iss="supabase", sub=None, aud=None)

    for issuer in ("supabase", "supabase-demo", ISSUER, None):
        own = secret_token(role="service_role", iss=issuer, sub=None, aud=None)
        assert (await verify.verify_service(own)).role == "service_role"
    with pytest.raises(InvalidToken):
        await verify.verify_service(secret_token())
    await refusal(verify, key)
    for other in ("https://another.supabase.co/auth/v1", "https://elsewhere.test"):
        with pytest.raises(InvalidToken, match="another issuer"):
            await verify.verify_service(secret_token(role="service_role", iss=other))


@pytest.mark.parametrize(
    ("offered", "accepted", "matches"),
    [
        ("new", ("new", "old"), True),
        ("old", ("new", "old"), True),
        ("ne", ("new", "old"), False),
        ("", ("new",), False),
        ("", (), False),
        ("", ("",), False),
        ("ключ", ("ключ",), True),
    ],
)
def test_worker_tokens_have_two_valid_values_while_they_rotate(
    offered: str, accepted: tuple[str, ...], matches: bool
) -> None:
    """Both tokens work until the old one is taken away; none never matches."""
    assert token_matches(offered, accepted) is matches


def test_the_time_of_a_comparison_says_nothing_of_a_workers_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither how much of one is right, nor which of two it is."""
    compared: list[bytes] = []
    real = hmac.compare_digest

    def compare(offered: bytes, accepted: bytes) -> bool:
        compared.append(accepted)
        return real(offered, accepted)

    monkeypatch.setattr(hmac, "compare_digest", compare)

    assert token_matches("old", ("old", "new"))
    assert compared == [b"old", b"new"]


def app_of(settings: Settings, **changes: Any) -> FastAPI:
    """A route for each kind of caller, which says whom it took the caller for."""
    router = APIRouter()

    def of(caller: Caller | None) -> str:
        return "guest" if caller is None else "user"

    @router.get("/user")
    async def user(caller: SignedIn) -> str:
        return of(caller)

    @router.get("/stream")
    async def stream(caller: StreamReader) -> str:
        return of(caller)

    @router.get("/sessions/{session_id}")
    async def session(session_id: str, caller: MaybeGuest) -> str:
        return of(caller)

    @router.get("/operator")
    async def operator(credentials: OperatorCredentials) -> str:
        return "no one" if credentials is None else credentials.credentials

    @router.get("/named")
    async def named(session_id: GuestSessionId) -> str | None:
        return session_id

    @router.get("/open")
    async def open_to_guests(caller: UserOrGuest) -> str:
        return of(caller)

    chosen = settings.model_copy(update={"allow_anonymous": True, **changes})
    return create_app(Services(chosen, clock=FrozenClock()), [router])


STREAM, TOKEN = {"accept": "text/event-stream"}, {"authorization": "Bearer {token}"}
GUEST, IN_ADDRESS = f"/sessions/guest_{'a' * 64}", "?access_token={token}"


@pytest.mark.parametrize(
    ("path", "headers", "answer"),
    [
        ("/user", TOKEN, "user"),
        ("/user", {"authorization": "bearer  {token}"}, "user"),
        ("/user", {}, "missing"),
        ("/user", {"authorization": "Bearer "}, "missing"),
        ("/user", {"authorization": "Basic {token}"}, "missing"),
        ("/user", {"authorization": "Bearer x"}, "invalid"),
        ("/user" + IN_ADDRESS, STREAM, "missing"),
        ("/stream", TOKEN, "user"),
        ("/stream", STREAM, "missing"),
        ("/stream" + IN_ADDRESS, STREAM, "user"),
        ("/stream" + IN_ADDRESS, {}, "missing"),
        ("/stream?access_token=x", STREAM | TOKEN, "user"),
        (GUEST, {}, "guest"),
        (GUEST, STREAM, "guest"),
        ("/operator", {}, "no one"),
        ("/operator", {"authorization": "Bearer secret"}, "secret"),
        ("/named", {}, None),
        ("/named?session_id=" + "g" * 255, {}, "g" * 255),
        ("/named", {"x-session-id": "g" * 255}, "g" * 255),
        (GUEST, TOKEN, "user"),
        (GUEST, {"authorization": "Bearer x"}, "invalid"),
        (GUEST + IN_ADDRESS, STREAM, "user"),
        (GUEST + IN_ADDRESS, {}, "guest"),
        ("/sessions/of-a-user", STREAM, "missing"),
        ("/sessions/of-a-user" + IN_ADDRESS, STREAM, "user"),
        ("/open", {}, "guest"),
        ("/open", TOKEN, "user"),
        ("/open", {"authorization": "Bearer x"}, "invalid"),
        ("/open" + IN_ADDRESS, STREAM, "user"),
        ("/open" + IN_ADDRESS, {}, "missing"),
    ],
)
async def test_a_route_takes_a_token_or_a_guest_where_it_may(
    settings: Settings,
    secret_token: MakeToken,
    path: str,
    headers: dict[str, str],
    answer: str | None,
) -> None:
    """Addresses are kept and logged, so one opens streams alone: EventSource sends no header."""
    token = secret_token()

    async with calling(app_of(settings)) as client:
        response = await client.get(
            path.format(token=token),
            headers={name: value.format(token=token) for name, value in headers.items()},
        )

    challenge = response.headers.get("www-authenticate", "")
    refused = "invalid" if "invalid_token" in challenge else "missing"
    assert (response.json() if response.status_code == 200 else refused) == answer
    assert response.status_code == (401 if challenge else 200)
    assert answer != "invalid" or response.json()["detail"] == "the token is malformed"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/named?session_id=" + "g" * 256, {}),
        ("/named", {"x-session-id": "g" * 256}),
        ("/sessions/" + "g" * 256, {}),
    ],
)
async def test_an_id_of_any_length_is_not_read(
    settings: Settings, secret_token: MakeToken, path: str, headers: dict[str, str]
) -> None:
    """It would be kept, logged and compared."""
    token = {"authorization": f"Bearer {secret_token()}"}

    async with calling(app_of(settings)) as client:
        response = await client.get(path, headers=headers | token)

    assert response.status_code == 422


async def test_without_anonymous_use_no_route_is_open_to_guests(settings: Settings) -> None:
    """Switched off, every one of them is closed."""
    async with calling(app_of(settings, allow_anonymous=False)) as client:
        answers = [(await client.get(path)).status_code for path in (GUEST, "/open")]

    assert answers == [401, 401]


async def test_the_requests_of_users_and_of_guest_sessions_are_counted(
    settings: Settings, secret_token: MakeToken
) -> None:
    """One page in a loop must not be everyone's 429."""
    token = {"authorization": f"Bearer {secret_token()}"}
    paths = (GUEST, GUEST, GUEST, f"/sessions/guest_{'b' * 64}")

    async with calling(app_of(settings, caller_requests_burst=2)) as client:
        of_guests = [(await client.get(path)).status_code for path in paths]
        of_a_user = [(await client.get("/user", headers=token)).status_code for _ in "abc"]
        token = {"authorization": f"Bearer {secret_token(sub=str(UUID(int=7)))}"}
        of_another = (await client.get("/user", headers=token)).status_code

    assert of_guests == [200, 200, 429, 200]
    assert of_another == 200
    assert of_a_user == [200, 200, 429]


def test_only_a_user_has_a_subject() -> None:
    """A route for users would else write rows of no one."""
    service = Caller(None, "service_role", token="t", expires_at=datetime.now(UTC))

    with pytest.raises(ApiError) as refused:
        _ = service.subject

    assert refused.value.status_code == 401
    assert refused.value.headers is not None
    assert "invalid_token" in refused.value.headers["WWW-Authenticate"], "its token is no user's"
    user = Caller(UUID(ADA), "authenticated", token="of-ada", expires_at=datetime.now(UTC))
    assert user.subject == UUID(ADA)
    assert (token_of(user), token_of(None)) == ("of-ada", None)


async def test_a_guest_session_in_a_header_goes_before_one_in_the_address() -> None:
    """A user who follows a link keeps the session that their page holds."""
    assert await named_guest_session("of-the-link", "of-the-page") == "of-the-page"
    assert await named_guest_session("of-the-link", None) == "of-the-link"
