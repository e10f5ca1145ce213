"""Verifies users' JWTs with the project's published keys, or with its legacy shared secret.

The imports of PyJWT and cryptography take 60 ms of a cold start, so `Services` imports this module
when the first token arrives. `minutehand.web.auth` passes the caller to routes.
"""

import asyncio
import logging
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import jwt

from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.credentials import SECRET_PREFIX
from minutehand.web.caller import Caller, InvalidToken
from minutehand.web.errors import unavailable

logger = logging.getLogger(__name__)

LEEWAY = timedelta(seconds=10)
#: Minimum interval between two fetches of the key set. A token with an unknown key id causes a
#: fetch.
REFETCH_AFTER = timedelta(minutes=1)
#: Age at which the key set is fetched again, so that a revoked key is no longer accepted.
KEYS_MAX_AGE = timedelta(minutes=10)
MAX_TOKEN_CHARACTERS = 8192
_BAD_TOKEN = "the token is malformed"
_REFUSALS: Mapping[type[Exception], str] = {
    jwt.ExpiredSignatureError: "the token has expired",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidSignatureError: "the token's signature is wrong",
    jwt.InvalidAlgorithmError: "the token's algorithm does not match its key",
}
_OTHER_ISSUER = "the token has another issuer"
_NO_KEYS = "The signing keys could not be fetched"
_UNKNOWN_KEY = "the token's signing key is unknown"

AUDIENCE = "authenticated"
#: Latest expiry of a token in seconds since 1970. The number is a time in the year 2096.
_MAX_TIMESTAMP = 4_000_000_000
#: Issuers of the legacy API keys, which are JWTs without a subject.
_API_KEY_ISSUERS = frozenset({"supabase", "supabase-demo"})
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class TokenVerifier:
    """Verifies JWTs of Supabase users with the project's published keys, or with its legacy secret.

    The key determines the algorithm, never the token. The key set contains the algorithm of each
    published key. The legacy secret uses HS256. Symmetric keys in a key set are ignored.

    References:
        https://supabase.com/docs/guides/auth/signing-keys; RFC 8725 §3.1
    """

    def __init__(
        self, settings: Settings, clock: Clock, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._issuer = _numeric(f"{settings.supabase_url}/auth/v1")
        self._url = f"{settings.supabase_url}/auth/v1/.well-known/jwks.json"
        self._apikey = settings.supabase_publishable_key
        self._secret = settings.supabase_jwt_secret
        self._transport = transport
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._keys_at = self._fetched_at = -math.inf
        self._has_response = True
        self._lock = asyncio.Lock()

    async def verify(self, token: str) -> Caller:
        """Return the user of a token. For a secret key or a service_role JWT, return the service.

        The gateway of the database checks secret keys (`sb_secret_…`), see
        `Services.verify_secret_key`.
        """
        if token.startswith(SECRET_PREFIX):
            never = datetime.max.replace(tzinfo=UTC)
            return Caller(user_id=None, role="service_role", token=token, expires_at=never)
        claims = await self._claims(token)
        if claims.get("role") == "service_role":
            if claims.get("iss") not in _API_KEY_ISSUERS and not self._is_issuer(claims):
                raise InvalidToken(_OTHER_ISSUER)
            return Caller(None, "service_role", token, _end_of(claims))
        if claims.get("role") != "authenticated":
            raise InvalidToken("the token does not belong to a signed-in user")
        if not self._is_issuer(claims):
            raise InvalidToken(_OTHER_ISSUER)
        audience = claims.get("aud")
        if AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
            raise InvalidToken("the token has another audience")
        try:
            user_id = UUID(claims["sub"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InvalidToken("the token names no subject") from error
        return Caller(user_id, "authenticated", token, _end_of(claims))

    def _is_issuer(self, claims: Mapping[str, Any]) -> bool:
        """Return whether this project issued the token, or the token has no claim `iss`."""
        issuer = claims.get("iss")
        return issuer is None or (isinstance(issuer, str) and _numeric(issuer) == self._issuer)

    async def _claims(self, token: str) -> dict[str, Any]:
        """Check the signature and the times of a token, and return the token's claims."""
        if len(token) > MAX_TOKEN_CHARACTERS or not _TOKEN.fullmatch(token):
            raise InvalidToken(_BAD_TOKEN)
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise InvalidToken(_BAD_TOKEN) from error
        key_id = header.get("kid")
        if self._secret and header.get("alg") == "HS256" and key_id not in self._keys:
            # only this project knows its legacy secret, and some tokens signed with it have no
            # issuer
            return _decoded(token, self._secret, "HS256", required=["exp"])
        if not isinstance(key_id, str):
            raise InvalidToken(_UNKNOWN_KEY)
        await self._refresh(key_id)
        if (key := self._keys.get(key_id)) is None:
            raise InvalidToken(_UNKNOWN_KEY) if self._has_response else unavailable(_NO_KEYS)
        # several projects may have the same published key, so the claim `iss` is required and
        # compared
        return _decoded(token, key, key.algorithm_name, required=["exp", "iss"])

    async def _refresh(self, key_id: str) -> None:
        """Fetch the key set if it is old or does not contain a key, at most once per minute."""
        now = self._clock.monotonic()
        if key_id in self._keys and now - self._keys_at <= KEYS_MAX_AGE.total_seconds():
            return
        async with self._lock:
            if now - self._fetched_at < REFETCH_AFTER.total_seconds():
                return
            self._fetched_at = now
            try:
                # use a separate client for this request, because most processes never fetch a
                # key set
                timeout = httpx.Timeout(5.0, connect=2.0)
                async with httpx.AsyncClient(timeout=timeout, transport=self._transport) as http:
                    response = await http.get(self._url, headers={"apikey": self._apikey})
                self._keys = _usable(response.raise_for_status().json())
                self._keys_at, self._has_response = now, True
            except (httpx.HTTPError, ValueError, TypeError, AttributeError) as error:
                self._has_response = False
                logger.warning(
                    "signing keys could not be fetched; known keys stay in use",
                    extra={"event": "auth.keys_failed", "reason": type(error).__name__},
                )


def _decoded(token: str, key: Any, algorithm: str, *, required: list[str]) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            leeway=LEEWAY,
            options={"require": required, "verify_aud": False, "verify_iss": False},
        )
    except (jwt.InvalidTokenError, OverflowError, ValueError, TypeError) as error:
        raise InvalidToken(_REFUSALS.get(type(error), _BAD_TOKEN)) from error
    return claims


def _numeric(url: str) -> str:
    """Replace localhost in a URL by 127.0.0.1, which the Supabase CLI writes into tokens."""
    return url.replace("://localhost:", "://127.0.0.1:", 1)


def _usable(document: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """Return the usable public keys of a key set by id, without symmetric keys."""
    found = {}
    for entry in document.get("keys", []):
        if entry.get("kty") not in {"EC", "RSA"} or entry.get("use", "sig") != "sig":
            continue
        try:
            found[entry["kid"]] = jwt.PyJWK(entry)
        except (jwt.PyJWTError, KeyError):
            logger.warning("a signing key is unusable", extra={"event": "auth.key_unusable"})
    return found


def _end_of(claims: Mapping[str, Any]) -> datetime:
    # limit the time, because a trusted signer may use a time that `datetime` cannot represent
    return datetime.fromtimestamp(min(int(claims["exp"]), _MAX_TIMESTAMP), UTC)
