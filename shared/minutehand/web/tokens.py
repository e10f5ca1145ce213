"""User JWTs: verified with the project's published keys, or its legacy shared secret.

PyJWT and cryptography cost 60 ms of a cold start, so `Services` imports this module when the
first token arrives; `minutehand.web.auth` hands its holder to routes.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import jwt

from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.keys import SECRET_PREFIX
from minutehand.web.caller import Caller, InvalidToken
from minutehand.web.errors import ApiError, unavailable

logger = logging.getLogger(__name__)

LEEWAY = timedelta(seconds=10)
#: An unknown key id makes us ask for the key set again, but no more often than this.
REFETCH_AFTER = timedelta(minutes=1)
#: Keys older than this are fetched again, so that a revoked one is forgotten.
KEYS_MAX_AGE = timedelta(minutes=10)
MAX_TOKEN_CHARACTERS = 8192
_MALFORMED = "the token is malformed"
_REFUSALS: Mapping[type[Exception], str] = {
    jwt.ExpiredSignatureError: "the token has expired",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidSignatureError: "the token's signature is wrong",
    jwt.InvalidAlgorithmError: "the token's algorithm does not match its key",
}
_OTHER_ISSUER = "the token has another issuer"
_NO_KEYS = "The signing keys could not be fetched"

AUDIENCE = "authenticated"
#: Issuers of the legacy API keys, which are JWTs without a subject.
_API_KEY_ISSUERS = frozenset({"supabase", "supabase-demo"})
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class _Key:
    algorithm: str
    key: Any = field(repr=False)


class TokenVerifier:
    """Verifies Supabase user JWTs: by the project's published keys, or its legacy secret.

    The algorithm belongs to the key and is never read from the token: a P-256 key verifies
    ES256, an RSA key RS256, the legacy secret HS256; symmetric keys in a key set are ignored.

    References:
        https://supabase.com/docs/guides/auth/signing-keys; RFC 8725 §3.1
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._issuer = f"{settings.supabase_url}/auth/v1"
        self._url = f"{self._issuer}/.well-known/jwks.json"
        self._apikey = settings.supabase_publishable_key
        self._secret = settings.supabase_jwt_secret
        self._transport = transport
        self._clock = clock
        self._keys = _parse_keys(settings.supabase_jwks or {})
        self._keys_at = clock.monotonic()
        self._asked_at: float | None = None
        self._unanswered = False
        self._lock = asyncio.Lock()

    async def verify(self, token: str) -> Caller:
        """A user, or the project's own service by its secret key, an older one being a JWT.

        A key `sb_secret_…` is for the database's gateway to judge, at each call.
        """
        if token.startswith(SECRET_PREFIX):
            never = datetime.max.replace(tzinfo=UTC)
            return Caller(user_id=None, role="service_role", token=token, expires_at=never)
        claims = await self._claims(token)
        if claims.get("role") == "service_role":
            if claims.get("iss") not in {None, self._issuer, *_API_KEY_ISSUERS}:
                raise InvalidToken(_OTHER_ISSUER)
            return Caller(None, "service_role", token, _instant(claims["exp"]))
        if claims.get("role") != "authenticated":
            raise InvalidToken("the token does not belong to a signed-in user")
        issuer = claims.get("iss")
        if issuer is not None and issuer != self._issuer:
            raise InvalidToken(_OTHER_ISSUER)
        audience = claims.get("aud")
        if AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
            raise InvalidToken("the token has another audience")
        try:
            user_id = UUID(claims["sub"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InvalidToken("the token names no subject") from error
        return Caller(user_id, "authenticated", token, _instant(claims["exp"]))

    async def _claims(self, token: str) -> dict[str, Any]:
        """Verified claims with signature and times checked; the rest is the caller's to check."""
        if len(token) > MAX_TOKEN_CHARACTERS or not _TOKEN.fullmatch(token):
            raise InvalidToken(_MALFORMED)
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise InvalidToken(_MALFORMED) from error
        key_id = header.get("kid")
        await self._refresh_when_stale()
        key = self._keys.get(key_id) if isinstance(key_id, str) else None
        if key is not None:
            return self._decode(token, key, issuer_required=True)
        refused = InvalidToken("the token's signing key is unknown")
        if self._secret:
            try:
                return self._decode(token, _Key("HS256", self._secret), issuer_required=False)
            except InvalidToken as error:
                if not isinstance(
                    error.__cause__, jwt.InvalidSignatureError | jwt.InvalidAlgorithmError
                ):
                    raise
                refused = error
        if isinstance(key_id, str):
            await self._fetch(key_id)
            key = self._keys.get(key_id)
            if key is not None:
                return self._decode(token, key, issuer_required=True)
        raise refused

    def _decode(self, token: str, key: _Key, *, issuer_required: bool) -> dict[str, Any]:
        # a published key may serve several projects' issuers, so `iss` must be there to compare;
        # the legacy secret is this project's alone, and its API keys and lite name none
        required = ["exp", "iss"] if issuer_required else ["exp"]
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                leeway=LEEWAY,
                options={"require": required, "verify_aud": False, "verify_iss": False},
            )
        except (jwt.InvalidTokenError, OverflowError, ValueError, TypeError) as error:
            raise InvalidToken(_REFUSALS.get(type(error), _MALFORMED)) from error
        return claims

    async def _refresh_when_stale(self) -> None:
        age = self._clock.monotonic() - self._keys_at
        if self._keys and age > KEYS_MAX_AGE.total_seconds():
            try:
                await self._fetch(None)
            except ApiError:
                logger.warning(
                    "signing keys could not be refreshed; the old ones stay in use",
                    extra={"event": "auth.keys_stale"},
                )

    async def _fetch(self, wanted: str | None) -> None:
        """Ask for the key set unless someone just did; `wanted` is a key that must be there."""
        async with self._lock:
            now = self._clock.monotonic()
            if self._asked_at is not None:
                waited = now - self._asked_at
                if waited < REFETCH_AFTER.total_seconds():
                    if wanted is not None and self._unanswered:
                        raise unavailable(_NO_KEYS)
                    return
            self._asked_at = now
            self._unanswered = True
            try:
                keys = _parse_keys(await self._download())
            except (httpx.HTTPError, ValueError, TypeError, AttributeError) as error:
                logger.warning(
                    "signing keys could not be fetched",
                    extra={"event": "auth.keys_failed", "reason": type(error).__name__},
                )
                raise unavailable(_NO_KEYS) from error
            self._unanswered = False
            self._keys = keys
            self._keys_at = now

    async def _download(self) -> Any:
        # its own client: this happens once in minutes, and most processes never need it
        timeout = httpx.Timeout(5.0, connect=2.0)
        async with httpx.AsyncClient(timeout=timeout, transport=self._transport) as http:
            response = await http.get(self._url, headers={"apikey": self._apikey})
            response.raise_for_status()
            return response.json()


def _parse_keys(document: Mapping[str, Any]) -> dict[str, _Key]:
    """The usable keys of a key set by their id; symmetric and unusable ones are omitted."""
    found: dict[str, _Key] = {}
    for entry in document.get("keys", []):
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        algorithm = _algorithm(entry)
        key_id = entry.get("kid")
        if algorithm is None or not isinstance(key_id, str):
            continue
        try:
            found[key_id] = _Key(algorithm, jwt.PyJWK(entry, algorithm=algorithm).key)
        except jwt.PyJWTError:
            logger.warning(
                "a signing key is unusable", extra={"event": "auth.key_unusable", "kid": key_id}
            )
    return found


def _algorithm(entry: Mapping[str, Any]) -> str | None:
    algorithm = {("EC", "P-256"): "ES256", ("RSA", None): "RS256"}.get(
        (str(entry.get("kty")), entry.get("crv"))
    )
    return algorithm if entry.get("alg", algorithm) == algorithm else None


def _instant(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        # an honest signer's far future; streams end by it, and never is late enough
        return datetime.max.replace(tzinfo=UTC)
