"""One post to a stranger's endpoint: what is sent, what its answer means, and where it may lead.

Order, retries and the end of a webhook are SQL's; tests/integration/webhooks has them together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from minutehand.aws.sealing import SealBroken
from minutehand.clock import FrozenClock
from minutehand.config import Settings
from minutehand.webhooks.outbound import AddressRefused
from minutehand.webhooks.processors import Webhooks
from minutehand.webhooks.secrets import WebhookSecrets
from minutehand.webhooks.sent import Sent
from minutehand.webhooks.signing import signed_headers

AT = datetime(2026, 11, 20, tzinfo=UTC)
SECRET = "whsec_c2VjcmV0IG9mIGEgdGVzdA=="
MESSAGE = {
    "send": True, "url": "https://hook.example/in", "body": {"type": "job.completed"},
    "message_id": "m1", "workspace_id": "w", "sealed_secrets": ["sealed"],
    "answer_ms": 10_000, "private_addresses": False,
}  # fmt: skip


class Opened(WebhookSecrets):
    """Secrets that are sealed as `sealed`; others were sealed for someone else."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def open(self, workspace_id: str, sealed: Sequence[str]) -> list[str]:
        self.asked.append(workspace_id)
        if list(sealed) != ["sealed"]:
            raise SealBroken("another's")
        return [SECRET]


class Hook(Webhooks):
    """Posts to an endpoint in the test's hand."""

    def __init__(self, answer: Any = 204, *, stage: str = "prod") -> None:
        settings = Settings(supabase_url="http://x.test", supabase_publishable_key="k", stage=stage)
        self.opened = Opened()
        super().__init__(settings, clock=FrozenClock(AT), secrets=self.opened)
        self.requests: list[httpx.Request] = []
        self.loopback: list[bool] = []
        self._answer = answer

    def _client(self, loopback: bool) -> httpx.AsyncClient:
        self.loopback.append(loopback)
        return httpx.AsyncClient(transport=httpx.MockTransport(self._handle))

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if isinstance(self._answer, Exception):
            raise self._answer
        if isinstance(self._answer, float):
            await asyncio.sleep(self._answer)
            return httpx.Response(204)
        if isinstance(self._answer, httpx.Response):
            return self._answer
        return httpx.Response(self._answer)


async def test_a_message_is_signed_over_the_very_bytes_that_are_sent() -> None:
    hook = Hook()

    sent = await hook.post(MESSAGE)

    [request] = hook.requests
    assert sent == Sent(ok=True, message="delivered", status=204)
    assert (request.method, str(request.url)) == ("POST", "https://hook.example/in")
    assert request.content == b'{"type":"job.completed"}'
    assert request.headers["content-type"] == "application/json"
    signed = signed_headers("m1", AT, request.content, [SECRET])
    assert {name: request.headers[name] for name in signed} == signed
    assert hook.opened.asked == ["w"]


@pytest.mark.parametrize(
    ("answer", "sent"),
    [
        (200, Sent(ok=True, message="delivered", status=200)),
        (299, Sent(ok=True, message="delivered", status=299)),
        (
            300,
            Sent(
                ok=False, message="the endpoint answered 300; redirects are not followed",
                status=300,
            ),
        ),
        (400, Sent(ok=False, message="the endpoint answered 400", status=400)),
        (httpx.ReadTimeout("slow"), Sent(
            ok=False, message="the endpoint did not answer in time", timed_out=True
        )),
        (httpx.ConnectError("refused"), Sent(
            ok=False, message="the endpoint could not be reached: ConnectError"
        )),
        (AddressRefused("not public"), Sent(ok=False, message="not public")),
        (httpx.InvalidURL("no URL"), Sent(ok=False, message="no URL")),
        (UnicodeError("idna"), Sent(
            ok=False, message="the endpoint's host must be a domain name"
        )),
    ],
)  # fmt: skip
async def test_what_an_endpoint_does_is_reported_as_it_was(answer: Any, sent: Sent) -> None:
    """Whatever it is, no endpoint makes the processor fail."""
    assert await Hook(answer).post(MESSAGE) == sent


@pytest.mark.parametrize(
    ("stage", "private", "loopback"),
    [("local", True, True), ("local", False, False), ("prod", True, False), ("local", 1, False)],
)
async def test_this_machine_is_meant_only_where_stage_and_engine_say_so(
    stage: str, private: Any, loopback: bool
) -> None:
    """Either alone may be a slip, and leads into our network."""
    hook = Hook(stage=stage)

    await hook.post({**MESSAGE, "private_addresses": private})

    assert hook.loopback == [loopback]
