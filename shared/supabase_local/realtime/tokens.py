"""Verifies API keys and JWTs. The errors have the texts of Supabase's protocol.

`authorization` decides what the owner of a verified token may do.
"""

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

_REQUIRED = "Fields `role` and `exp` are required in JWT"
_BAD_TOKEN = "The token provided is not a valid JWT"
_BAD_SIGNATURE = "Failed to validate JWT signature"


class TokenError(Exception):
    """A token was rejected. `str(error)` is the reason in the reply to a join, with its code.

    Attributes:
        message: The reason without the error's code.
        handshake: The reason in the response to a rejected handshake.
    """

    def __init__(self, code: str, message: str, handshake: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.message = message
        self.handshake = handshake or message


@dataclass(frozen=True)
class Token:
    """A token or project key that was verified."""

    text: str
    claims: Mapping[str, Any]
    #: Expiry in seconds since 1970. `expires_at` is None for a project key, which does not expire.
    expires_at: float | None

    @property
    def role(self) -> str:
        """Database role of the token."""
        return str(self.claims["role"])

    def check_expiry(self) -> None:
        """Raise TokenError if the token has expired."""
        if self.expires_at is not None and self.expires_at <= time.time():
            raise _expired(self.expires_at)


class Verifier:
    """Verifies the keys and the users' tokens of one project."""

    def __init__(self, *, jwt_secret: str, publishable_key: str, secret_key: str) -> None:
        self._secret = jwt_secret
        self._project_keys = {"anon": publishable_key, "service_role": secret_key}

    def verify(self, text: str) -> Token:
        """Verify a JWT or a project key. Raises TokenError if the text is not valid."""
        for role, key in self._project_keys.items():
            if hmac.compare_digest(text.encode(), key.encode()):
                return Token(text, {"role": role, "iss": "supabase"}, None)
        try:
            claims = jwt.decode(
                text,
                self._secret,
                ["HS256"],
                # check the expiry later, because the reason of the error contains the time
                options={"verify_aud": False, "verify_exp": False, "verify_nbf": False},
            )
        except jwt.InvalidSignatureError as error:
            raise TokenError("JwtSignatureError", _BAD_SIGNATURE) from error
        except jwt.InvalidTokenError as error:
            raise TokenError("MalformedJWT", _BAD_TOKEN) from error
        if not isinstance(claims.get("role"), str) or "exp" not in claims:
            raise TokenError("InvalidJWTToken", _REQUIRED)
        if not isinstance(claims["exp"], int | float):
            raise TokenError("MalformedJWT", _BAD_TOKEN)
        token = Token(text, claims, float(claims["exp"]))
        token.check_expiry()
        return token


def _expired(at: float) -> TokenError:
    ago = max(0, int(time.time() - at))
    return TokenError(
        "InvalidJWTToken", f"Token has expired {ago} seconds ago", "Token has expired"
    )
