"""Which keys and tokens are accepted."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from supabase_local.realtime.tokens import TokenError, Verifier

SECRET = "a-secret-of-at-least-thirty-two-bytes-for-hs256"
PRIVATE = ec.generate_private_key(ec.SECP256R1())
JWK = {
    **json.loads(jwt.algorithms.ECAlgorithm.to_jwk(PRIVATE.public_key())),
    "kid": "k1",
    "alg": "ES256",
    "use": "sig",
}


def claims(**more: Any) -> dict[str, Any]:
    return {"role": "authenticated", "exp": time.time() + 60, **more}


def verifier(**options: Any) -> Verifier:
    return Verifier(
        jwt_secret=SECRET, publishable_key="sb_publishable_a", secret_key="sb_secret_b", **options
    )


def test_project_keys_stand_for_roles_and_do_not_expire() -> None:
    """Hosted, the gateway swaps them for tokens."""
    assert verifier().verify("sb_publishable_a").role == "anon"
    assert verifier().verify("sb_secret_b").role == "service_role"
    assert verifier().verify("sb_secret_b").expires_at is None


def test_a_key_set_verifies_by_kid() -> None:
    """Projects with asymmetric keys."""
    token = jwt.encode(claims(), PRIVATE, "ES256", headers={"kid": "k1"})

    assert verifier(jwks=json.dumps({"keys": [JWK]})).verify(token).role == "authenticated"


def test_the_key_names_the_algorithm_never_the_token() -> None:
    """A public key must not become an HMAC secret, and `none` is no signature."""
    public = JWK["x"] + JWK["y"]  # what everyone can know
    forged = jwt.encode(claims(), public, "HS256", headers={"kid": "k1"})
    unsigned = jwt.encode(claims(), "", "none")
    strict = verifier(jwks=json.dumps({"keys": [JWK]}))

    for token, code in ((forged, "JwtSignatureError"), (unsigned, "JwtSignerError")):
        with pytest.raises(TokenError) as refused:
            strict.verify(token)
        assert refused.value.code == code


@pytest.mark.parametrize("exp", ["soon", None, [], True, float("inf")])
def test_an_expiry_that_is_no_number_is_refused(exp: Any) -> None:
    """Whatever a token claims, it must not live forever."""
    token = jwt.api_jws.encode(json.dumps(claims(exp=exp)).encode(), SECRET, "HS256")

    with pytest.raises(TokenError):
        verifier().verify(token)
