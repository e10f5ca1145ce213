"""The processor of `webhook_delivery`: post one event to one endpoint and say how it went.

What is sent to whom, in which order, and when an endpoint is disabled is decided in SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

import httpx
from pydantic import BaseModel
from pydantic_core import to_json
from standardwebhooks import Webhook

from minutehand.aws.sealing import SealBroken
from minutehand.config import Settings
from minutehand.queue.answers import decode_object
from minutehand.queue.functions import FunctionStore
from minutehand.redaction import without_secrets
from minutehand.retry_after import requested_wait
from minutehand.webhooks.outbound import AddressRefused, PublicTransport
from minutehand.webhooks.secrets import WebhookSecrets
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Cancel, Fail, Retry
from minutehand.worker.registry import Registry

#: Longest time for one endpoint, from its name to its answer.
ANSWER_SECONDS = 10.0
#: How much is kept of what an endpoint says when it refuses.
MOST_SAID_BYTES = 300
HEADERS = {
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": "Minutehand",
}
#: Why a delivery ends without having been sent, by what SQL says.
NOT_SENT = {
    "webhook_deleted": "not sent: the webhook was deleted",
    "webhook_disabled": "not sent: the webhook is switched off",
    "event_deleted": "not sent: the event is no longer kept",
}


class Delivery(BaseModel):
    """Which event goes to which endpoint."""

    webhook_id: UUID
    job_id: UUID
    seq: int


@dataclass(frozen=True, slots=True)
class Sent:
    """How one try went; `status` is None when there was no answer."""

    ok: bool
    message: str
    status: int | None = None
    retry_after: timedelta | None = None


class WebhookStore(FunctionStore):
    """The engine's functions for a delivery, as `job_worker`."""

    async def to_send(self, job_id: str, fence: int) -> dict[str, Any]:
        """What a leased delivery is to send."""
        found: dict[str, Any] = await self._functions.call_held(
            "webhook_to_send", job_id, fence, parse=decode_object
        )
        return found

    async def sent(self, job_id: str, fence: int, sent: Sent) -> dict[str, Any]:
        """Record the outcome; return whether the webhook is still enabled."""
        given = {name: value for name, value in asdict(sent).items() if name != "retry_after"}
        request = {"job_id": job_id, "fence": fence, **given}
        # a failure that is reported twice counts twice
        noted: dict[str, Any] = await self._functions.call(
            "webhook_sent", {"p_request": request}, repeatable=sent.ok, parse=decode_object
        )
        return noted


class Webhooks:
    """Dependencies of one process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secrets = WebhookSecrets(settings)
        self._clients: dict[bool, httpx.AsyncClient] = {}

    @cached_property
    def store(self) -> WebhookStore:
        """The engine's functions."""
        return WebhookStore(self._settings)

    async def deliver(
        self, job: Job[Delivery], ctx: JobContext
    ) -> dict[str, bool | int | str | None] | Retry | Fail | Cancel:
        """Send the event; anything but a 2xx is tried again until SQL gives the endpoint up."""
        message = await self.store.to_send(job.id, job.fence)
        if not message["send"]:
            return Cancel(NOT_SENT.get(message["reason"], message["reason"]), data=message)
        sent = await self.post(message)
        noted = await self.store.sent(job.id, job.fence, sent)
        if sent.ok:
            return {"sent": True, "status": sent.status}
        data = {"status": sent.status, "failures": noted["failures"]}
        if not noted["enabled"]:
            return Fail(f"{sent.message}; the webhook is disabled", data=data)
        return Retry(sent.message, after=sent.retry_after, data=data)

    async def post(self, message: Mapping[str, Any]) -> Sent:
        """Sign and post one message; of a refusal's body the beginning is kept."""
        body = to_json(message["body"])
        try:
            secrets = await self._secrets.open(message["workspace_id"], message["sealed_secrets"])
        except SealBroken:
            return Sent(
                ok=False, message="the signing secret cannot be decrypted: create a new one"
            )
        message_id, now = message["message_id"], datetime.now(UTC)
        signature = {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(
                Webhook(secret).sign(message_id, now, body.decode()) for secret in secrets
            ),
        }
        private = message["private_addresses"] is True
        return await self._send(message["url"], body, {**HEADERS, **signature}, private)

    async def _send(self, url: str, body: bytes, headers: Mapping[str, str], private: bool) -> Sent:
        # development needs both: the stage, and the engine's own setting
        loopback = self._settings.stage == "local" and private
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                self._client(loopback).stream(
                    "POST", url, content=body, headers=headers
                ) as response,
            ):
                said = "" if response.is_success else await _beginning_of(response)
                return _sent(response.status_code, response.headers, said, datetime.now(UTC))
        except (TimeoutError, httpx.TimeoutException):
            return Sent(ok=False, message="the endpoint did not answer in time")
        except (AddressRefused, httpx.InvalidURL) as error:
            return Sent(ok=False, message=str(error))
        except UnicodeError:  # httpx reads xn-- names when they are used only
            return Sent(ok=False, message="the endpoint's host must be a domain name")
        except httpx.HTTPError as error:
            return Sent(
                ok=False, message=f"the endpoint could not be reached: {type(error).__name__}"
            )

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()
        if "store" in self.__dict__:
            await self.store.aclose()

    def _client(self, loopback: bool) -> httpx.AsyncClient:
        # made when needed: it reads every root certificate
        if loopback not in self._clients:
            self._clients[loopback] = httpx.AsyncClient(
                transport=PublicTransport(loopback=loopback),
                timeout=ANSWER_SECONDS,
                follow_redirects=False,
                trust_env=False,  # a proxy would resolve the name again
            )
        return self._clients[loopback]


async def _beginning_of(response: httpx.Response) -> str:
    """What the endpoint says of its refusal, on one line.

    It is read as it was sent: what a stranger has packed becomes a thousand times as large.
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        return ""
    body = b""
    with contextlib.suppress(httpx.HTTPError):  # the status was there before
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) >= MOST_SAID_BYTES:
                break
    return without_secrets(" ".join(body[:MOST_SAID_BYTES].decode(errors="replace").split()))


def _sent(status: int, headers: httpx.Headers, said: str, now: datetime) -> Sent:
    if 200 <= status < 300:
        return Sent(ok=True, message="delivered", status=status)
    message = f"the endpoint answered {status}"
    if 300 <= status < 400:
        place = without_secrets(headers.get("location", "nowhere")[:300])
        message += f" to {place}; redirects are not followed"
    if said:
        message += f": {said}"
    wait = requested_wait(headers, now=now)
    return Sent(ok=False, message=message, status=status, retry_after=wait)


def register(registry: Registry, settings: Settings, *, app: Webhooks | None = None) -> Webhooks:
    """Add the processor to `registry`; returns what it holds, to be closed at the end."""
    app = app or Webhooks(settings)
    # a job's events go one by one, and endpoints that never answer hold three slots of a tenant
    registry.processor(
        "webhook_delivery",
        payload=Delivery,
        workspace_concurrency=3,
        key_concurrency=1,
        lease=60,
        timeout=30,
        max_attempts=12,
        backoff=Backoff(first=10, cap=7200, factor=3),
        events="minimal",
        internal=True,
    )(app.deliver)
    return app
