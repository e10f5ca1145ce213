"""Signatures: what a receiver's own library verifies."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from minutehand.webhooks.signing import signed_headers

BODY = '{"test": "ü"}'.encode()


@pytest.mark.parametrize("known", [0, 1])
def test_a_receiver_verifies_by_whichever_secret_it_knows(known: int) -> None:
    """While one replaces the other, each signs."""
    secrets = [f"whsec_{base64.b64encode(key).decode()}" for key in (b"n" * 32, b"o" * 24)]

    headers = signed_headers("evt_1", datetime.now(UTC), BODY, secrets)

    Webhook(secrets[known]).verify(BODY, headers)
