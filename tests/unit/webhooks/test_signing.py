"""Signatures: the vector other implementations publish, several secrets, and another HMAC."""

from __future__ import annotations

import base64
import hmac
from datetime import UTC, datetime

from minutehand.webhooks.signing import signed_headers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
AT = datetime.fromtimestamp(1614265330, UTC)
BODY = b'{"test": 2432232314}'


def test_the_example_other_implementations_test_with() -> None:
    """From the test suites of the Standard Webhooks libraries."""
    assert signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", AT, BODY, [SECRET]) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_secret_signs_while_one_replaces_the_other() -> None:
    """Old first or new first: the receiver takes whichever it knows."""
    keys = [b"n" * 32, b"o" * 24]
    secrets = ["whsec_" + base64.b64encode(key).decode() for key in keys]

    signatures = signed_headers("evt_1", AT, BODY, secrets)["webhook-signature"].split(" ")

    assert signatures == [
        "v1," + base64.b64encode(hmac.digest(key, b"evt_1.1614265330." + BODY, "sha256")).decode()
        for key in keys
    ]
