"""Fixtures: settings, keys and tokens of an invented project, and a client for an app."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import FastAPI

from minutehand.config import Settings

Json = dict[str, Any]

SECRET = "the-legacy-secret-of-a-made-up-project"
URL = "https://project.example.test"
ISSUER = f"{URL}/auth/v1"
ADA = "aaaaaaaa-0000-4000-8000-000000000001"
SETTINGS = Settings(
    supabase_url=URL,
    supabase_publishable_key="sb_publishable_test",
    supabase_jwt_secret=SECRET,
    worker_secret_tokens=("dev-secret-token", "older-token"),
    cors_origins=("https://app.example.com",),
)


def claims(**changes: Any) -> Json:
    """Return the token claims of a signed-in user. A change to None removes that claim."""
    now = int(time.time())
    all_claims = {
        "sub": ADA,
        "aud": "authenticated",
        "role": "authenticated",
        "iss": ISSUER,
        "iat": now,
        "exp": now + 600,
        **changes,
    }
    return {name: value for name, value in all_claims.items() if value is not None}


@dataclass
class Signer:
    """A key pair with an id, as Supabase Auth has."""

    kid: str
    algorithm: str
    private: Any = field(repr=False)

    def token(self, *, headers: Json | None = None, **changes: Any) -> str:
        return jwt.encode(
            claims(**changes),
            self.private,
            self.algorithm,
            headers={"kid": self.kid, **(headers or {})},
        )

    @property
    def jwk(self) -> Json:
        make = jwt.get_algorithm_by_name(self.algorithm)
        public: Json = make.to_jwk(self.private.public_key(), as_dict=True)
        return {**public, "kid": self.kid, "alg": self.algorithm, "use": "sig"}


@pytest.fixture(scope="session")
def es256() -> Signer:
    return Signer("key-ec", "ES256", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="session")
def rs256() -> Signer:
    return Signer("key-rsa", "RS256", rsa.generate_private_key(65537, 2048))


def secret_token(**changes: Any) -> str:
    return jwt.encode(claims(**changes), SECRET, "HS256")


@asynccontextmanager
async def calling(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client that calls the app without a network."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
        yield client


def error_of(response: httpx.Response) -> Json:
    """Check that the error's body is complete and matches its header. Return the body."""
    body: Json = response.json()
    assert set(body) == {"error", "code", "detail", "request_id"}, body
    assert body["error"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return body
