"""Compact JWS with Ed25519 (RFC 7515, RFC 8037): signing, strict reading, key thumbprints.

What is signed, and whether it is true, is left to `receipts` and `verify`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minutehand.apps.beacon.canonical import canonical

TYPE = "minutehand-beacon+jws"


class BadSignature(Exception):
    """A JWS is malformed or was not signed by the key; the text says which."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key pair; the private half stays out of every text."""

    kid: str
    x: str
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> SigningKey:
        """A new one, from the system's randomness."""
        return cls.from_seed(secrets.token_bytes(32))

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The key of a 32-byte seed."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        x = encode(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())
        return cls(kid=thumbprint(x), x=x, seed=seed)

    @classmethod
    def from_text(cls, text: str) -> SigningKey:
        """The key that `to_text` wrote."""
        return cls.from_seed(decode(text))

    def to_text(self) -> str:
        """The private key as text, to be sealed and shown to nobody."""
        return encode(self.seed)

    def sign(self, payload: Mapping[str, Any]) -> str:
        """`payload`, as canonical JSON, in a compact JWS."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        header = {"alg": "EdDSA", "kid": self.kid, "typ": TYPE}
        signed = f"{encode(canonical(header).encode())}.{encode(canonical(payload).encode())}"
        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(signed.encode())
        return f"{signed}.{encode(signature)}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A JWS taken apart; nothing of it is verified yet."""

    header: dict[str, Any]
    payload: dict[str, Any]
    signed: bytes
    signature: bytes

    @property
    def kid(self) -> str:
        """Which key is said to have signed."""
        return str(self.header.get("kid"))


def parse(jws: str) -> Parsed:
    """Take a compact JWS apart; one text per content, so that no byte can change unnoticed.

    Raises:
        BadSignature: It is no compact JWS of this app's making.
    """
    parts = jws.split(".")
    if len(parts) != 3:
        raise BadSignature(f"a compact JWS has three parts, not {len(parts)}")
    try:
        header = _object(decode(parts[0]), "header")
        payload = _object(decode(parts[1]), "payload")
        signature = decode(parts[2])
    except (ValueError, RecursionError) as error:
        raise BadSignature(str(error)) from error
    if header.get("alg") != "EdDSA" or header.get("typ") != TYPE or set(header) != _HEADER:
        raise BadSignature("the header is not that of a receipt: alg EdDSA, kid, typ " + TYPE)
    return Parsed(header, payload, f"{parts[0]}.{parts[1]}".encode(), signature)


def check(parsed: Parsed, x: str) -> None:
    """Verify the signature by a public key.

    Raises:
        BadSignature: It does not verify.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(decode(x)).verify(parsed.signature, parsed.signed)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(f"the signature does not verify by key {parsed.kid}") from error


def thumbprint(x: str) -> str:
    """The RFC 7638 thumbprint of an Ed25519 public key."""
    text = canonical({"crv": "Ed25519", "kty": "OKP", "x": x})
    return encode(hashlib.sha256(text.encode()).digest())


def encode(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """The bytes of `encode`, and of no other text.

    Raises:
        ValueError: Another alphabet, padding, or spare bits that are not zero.
    """
    padded = text + "=" * (-len(text) % 4)
    data = base64.b64decode(padded, altchars=b"-_", validate=True)
    if encode(data) != text:
        raise ValueError("base64url is written in one way only")
    return data


_HEADER = {"alg", "kid", "typ"}


def _object(data: bytes, name: str) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict) or canonical(value).encode() != data:
        raise ValueError(f"the {name} is no object in canonical JSON (RFC 8785)")
    return value
