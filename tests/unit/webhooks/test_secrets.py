"""Secrets of webhooks: fresh, sealed for one workspace and one purpose, and kept out of logs."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, cast

from minutehand.aws.sealing import PURPOSE
from minutehand.config import Settings
from minutehand.webhooks.secrets import WebhookSecrets
from minutehand.webhooks.signing import PREFIX


class Sealer:
    """Shows for what it was asked to seal."""

    async def seal(self, plain: str, *, context: Mapping[str, str]) -> str:
        return json.dumps([plain, dict(context)])

    async def open(self, sealed: str, *, context: Mapping[str, str]) -> str:
        plain, sealed_for = json.loads(sealed)
        assert sealed_for == context
        return str(plain)


def secrets() -> WebhookSecrets:
    settings = Settings(supabase_url="http://x.test", supabase_publishable_key="k")
    return WebhookSecrets(settings, sealer=cast("Any", Sealer()))


async def test_a_secret_is_random_and_sealed_for_its_workspace_and_purpose() -> None:
    """No other workspace's webhook opens it."""
    one, other = await secrets().make("w"), await secrets().make("w")

    assert len(base64.b64decode(one.plain.removeprefix(PREFIX))) == 32
    assert one.plain.startswith(PREFIX)
    assert one.plain != other.plain
    assert one.plain not in repr(type(one)(one.plain, "sealed"))
    context = {"purpose": PURPOSE, "workspace_id": "w"}
    assert json.loads(one.sealed) == [one.plain, {**context, "secret": "webhook"}]
    assert await secrets().open("w", [one.sealed, other.sealed]) == [one.plain, other.plain]
