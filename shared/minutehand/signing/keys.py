"""Ed25519 over canonical JSON: signing an object, checking it, key thumbprints (RFC 8032, 8785).

What is signed, and whether it is true, is left to `signer` and `verify`.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minutehand.signing.canonical import canonical

#: The one member that is not signed.
SIGNATURE = "signature"


class BadSignature(Exception):
    """A signature is malformed or was not made by the key; the text says which."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key pair; the private half stays out of every text."""

    kid: str
    x: str
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a key from the system's randomness."""
        return cls.from_seed(secrets.token_bytes(32))

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """Make the key of a 32-byte seed."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        x = encode(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())
        return cls(kid=thumbprint(x), x=x, seed=seed)

    @classmethod
    def from_text(cls, text: str) -> SigningKey:
        """Read the key that `to_text` wrote."""
        return cls.from_seed(decode(text))

    def to_text(self) -> str:
        """Write the private key as text, to be sealed and never shown."""
        return encode(self.seed)

    def sign(self, statement: Mapping[str, Any]) -> dict[str, Any]:
        """Return `statement` with `key_id` and the signature over all of it."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        signed = {**statement, "key_id": self.kid}
        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(signed_bytes(signed))
        return {**signed, SIGNATURE: encode(signature)}


def signed_bytes(document: Mapping[str, Any]) -> bytes:
    """Return what is signed: canonical JSON of every member but the signature, in UTF-8.

    Raises:
        ValueError: A value has no canonical form.
    """
    return canonical({k: v for k, v in document.items() if k != SIGNATURE}).encode()


def check(document: Mapping[str, Any], x: str) -> None:
    """Check a document's signature by a public key.

    Raises:
        BadSignature: It does not verify.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(decode(x))
        key.verify(decode(str(document.get(SIGNATURE))), signed_bytes(document))
    except (InvalidSignature, ValueError, RecursionError) as error:
        key_id = document.get("key_id")
        raise BadSignature(f"the signature does not verify by key {key_id}") from error


def thumbprint(x: str) -> str:
    """Return the RFC 7638 thumbprint of an Ed25519 public key."""
    text = canonical({"crv": "Ed25519", "kty": "OKP", "x": x})
    return encode(hashlib.sha256(text.encode()).digest())


def encode(data: bytes) -> str:
    """Write bytes as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Read the bytes of `encode`, and of no other text.

    Raises:
        ValueError: Another alphabet, padding, or spare bits that are not zero.
    """
    padded = text + "=" * (-len(text) % 4)
    data = base64.b64decode(padded, altchars=b"-_", validate=True)
    if encode(data) != text:
        raise ValueError("base64url must be written without padding and spare bits")
    return data
