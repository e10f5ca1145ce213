"""Verifies API keys and JWTs and says in the protocol's own words why one is refused.

Who may do what with a verified token is decided in `authorization`.
"""

from __future__ import annotations

import dataclasses
import hmac
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import jwt

_HMAC = ("HS256", "HS384", "HS512")
_ASYMMETRIC = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA")
_REQUIRED = "Fields `role` and `exp` are required in JWT"
_MALFORMED = "The token provided is not a valid JWT"
_BAD_SIGNATURE = "Failed to validate JWT signature"


class TokenError(Exception):
    """A token was refused; its text is what a join says.

    Attributes:
        message: The same without its code.
        handshake: What a refused handshake says.
    """

    def __init__(self, code: str, message: str, handshake: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.message = message
        self.handshake = handshake or message


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """A verified token."""

    text: str
    claims: Mapping[str, Any]
    #: Seconds since the epoch; None for a project key, which does not expire.
    expires_at: float | None

    @property
    def role(self) -> str:
        """The database role."""
        return str(self.claims["role"])

    def check_expiry(self) -> None:
        """Raise TokenError when the token has expired."""
        if self.expires_at is not None and self.expires_at <= time.time():
            raise _expired(self.expires_at)


class Verifier:
    """Verifies the keys and tokens of one project."""

    def __init__(
        self, *, jwt_secret: str, publishable_key: str = "", secret_key: str = "", jwks: str = ""
    ) -> None:
        self._secret = jwt_secret
        self._project_keys = {
            role: key.encode()
            for role, key in (("anon", publishable_key), ("service_role", secret_key))
            if key
        }
        self._public = {
            key.key_id: key for key in (jwt.PyJWKSet.from_json(jwks).keys if jwks else ())
        }
        self._jws = jwt.PyJWS()

    def verify(self, text: str) -> Token:
        """Verify a JWT or a project key.

        Raises:
            TokenError: It is malformed, forged, expired or lacks `role` or `exp`.
        """
        for role, key in self._project_keys.items():
            if hmac.compare_digest(text.encode(), key):
                return Token(text, {"role": role, "iss": "supabase"}, None)
        claims = self._claims(text)
        if not isinstance(claims.get("role"), str) or "exp" not in claims:
            raise TokenError("InvalidJWTToken", _REQUIRED)
        expires_at = _number(claims["exp"])
        if "iat" in claims:
            _number(claims["iat"])
        if expires_at <= time.time():
            raise _expired(expires_at)
        return Token(text, claims, expires_at)

    def _claims(self, text: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(text)
        except jwt.InvalidTokenError as error:
            raise TokenError("MalformedJWT", _MALFORMED) from error
        try:
            payload = self._jws.decode(text, self._key_for(header), [str(header.get("alg"))])
            claims = json.loads(payload)
        except jwt.InvalidSignatureError as error:
            raise TokenError("JwtSignatureError", _BAD_SIGNATURE) from error
        except (jwt.InvalidTokenError, ValueError) as error:
            raise TokenError("MalformedJWT", _MALFORMED) from error
        if not isinstance(claims, dict):
            raise TokenError("MalformedJWT", _MALFORMED)
        return claims

    def _key_for(self, header: Mapping[str, Any]) -> Any:
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm in _HMAC and self._secret:
            return self._secret
        key = self._public.get(kid)
        # the key names the algorithm, never the token
        if algorithm in _ASYMMETRIC and key is not None and key.algorithm_name == algorithm:
            return key
        named = f' for key ID (kid) "{kid}"' if kid else ""
        raise TokenError(
            "JwtSignerError",
            f"Failed to generate JWT signer{named}, check your JWT secret or JWKS configuration",
            "Failed to generate JWT signer, check your JWT secret or JWKS configuration",
        )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenError("MalformedJWT", _MALFORMED)
    return float(round(value))


def _expired(at: float) -> TokenError:
    ago = max(0, int(time.time() - at))
    return TokenError(
        "InvalidJWTToken", f"Token has expired {ago} seconds ago", "Token has expired"
    )
