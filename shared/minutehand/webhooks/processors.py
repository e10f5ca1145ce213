"""The processor of `webhook_delivery`, which posts an event to an endpoint and stores the result.

SQL decides which events are sent, in which order, and when an endpoint is disabled.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

import httpx
from pydantic import BaseModel
from pydantic_core import to_json
from standardwebhooks import Webhook

from minutehand.aws.sealing import SealBroken
from minutehand.config import Settings
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.outbound_http import connect
from minutehand.queue.responses import decode_object
from minutehand.redaction import without_secrets
from minutehand.retry_after import requested_wait
from minutehand.webhooks.outbound import AddressRejected, PublicTransport
from minutehand.webhooks.secrets import WebhookSecrets
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Cancel, Fail, Retry
from minutehand.worker.registry import Registry

#: Maximum seconds of a request, from the DNS look-up to the response.
REQUEST_SECONDS = 10.0
#: Maximum stored bytes of an error response's body.
MAX_BODY_BYTES = 300
HEADERS = {"accept-encoding": "identity", "content-type": "application/json"}
#: Message about a delivery that was not sent, by the reason that SQL returned.
NOT_SENT = {
    "webhook_deleted": "not sent: the webhook was deleted",
    "webhook_disabled": "not sent: the webhook is disabled",
    "event_deleted": "not sent: the event is no longer stored",
}


class Delivery(BaseModel):
    """Payload of a delivery, with the ids of the delivery's endpoint and event."""

    webhook_id: UUID
    job_id: UUID
    seq: int


@dataclass(frozen=True)
class SendResult:
    """Result of a request to an endpoint. `status` is None if no response arrived."""

    ok: bool
    message: str
    status: int | None = None
    retry_after: timedelta | None = None


class WebhookStore(WorkerFunctions):
    """Calls the SQL functions for deliveries, as the role `job_worker`."""

    async def record(self, job_id: str, fence: int, result: SendResult) -> dict[str, Any]:
        """Store a result.

        Return whether the webhook is still enabled, and its number of failures.
        """
        fields = {name: value for name, value in asdict(result).items() if name != "retry_after"}
        request = {"job_id": job_id, "fence": fence, **fields}
        # do not repeat the report of a failure, because SQL would count the failure twice
        state: dict[str, Any] = await self.call(
            "webhook_sent", {"p_request": request}, repeatable=result.ok, parse=decode_object
        )
        return state


class Webhooks:
    """Dependencies of the processor, of which a process has one instance."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secrets = WebhookSecrets(settings)

    @cached_property
    def store(self) -> WebhookStore:
        """Client of the SQL functions for deliveries."""
        return WebhookStore(self._settings)

    async def deliver(
        self, job: Job[Delivery], ctx: JobContext
    ) -> dict[str, bool | int | str | None] | Retry | Fail | Cancel:
        """Send an event. Retry until a 2xx response arrives or the webhook is switched off."""
        message: dict[str, Any] = await self.store.call_held(
            "webhook_to_send", job.id, job.fence, parse=decode_object
        )
        if not message["send"]:
            return Cancel(NOT_SENT.get(message["reason"], message["reason"]), data=message)
        # receivers reject a wrong time, and the clock of this machine may be wrong
        result = await self.post(message, ctx.clock.now())
        state = await self.store.record(job.id, job.fence, result)
        if result.ok:
            return {"sent": True, "status": result.status}
        data = {"status": result.status, "failures": state["failures"]}
        if not state["enabled"]:
            return Fail(f"{result.message}; the webhook is disabled", data=data)
        return Retry(result.message, after=result.retry_after, data=data)

    async def post(self, message: Mapping[str, Any], now: datetime) -> SendResult:
        """Sign and post a message.

        The result contains the beginning of an error response's body.
        """
        body = to_json(message["body"])
        try:
            secrets = await self._secrets.open(message["workspace_id"], message["sealed_secrets"])
        except SealBroken:
            return SendResult(
                ok=False, message="the signing secret cannot be decrypted; create a new secret"
            )
        message_id = message["message_id"]
        signature = {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(
                Webhook(secret).sign(message_id, now, body.decode()) for secret in secrets
            ),
        }
        return await self._send(message, body, {**HEADERS, **signature}, now)

    async def _send(
        self, message: Mapping[str, Any], body: bytes, headers: Mapping[str, str], now: datetime
    ) -> SendResult:
        allows_private = message["private_addresses"] is True
        # accept private addresses only if both the stage is local and the engine's setting allows
        # them
        loopback = self._settings.stage == "local" and allows_private
        timeout, transport = httpx.Timeout(REQUEST_SECONDS), PublicTransport(loopback=loopback)
        try:
            async with (
                asyncio.timeout(REQUEST_SECONDS),
                connect(timeout=timeout, transport=transport) as client,
                client.stream("POST", message["url"], content=body, headers=headers) as response,
            ):
                text = "" if response.is_success else await _read_start(response)
                return _to_result(response.status_code, response.headers, text, now)
        except (TimeoutError, httpx.TimeoutException):
            return SendResult(ok=False, message="the endpoint did not respond in time")
        except (AddressRejected, httpx.InvalidURL) as error:
            return SendResult(ok=False, message=str(error))
        except UnicodeError:  # httpx decodes a host that begins with xn-- only at the request
            return SendResult(ok=False, message="the endpoint's host must be a domain name")
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            return SendResult(ok=False, message=f"the endpoint could not be reached: {reason}")

    async def aclose(self) -> None:
        """Close the connections."""
        if "store" in self.__dict__:
            await self.store.aclose()


async def _read_start(response: httpx.Response) -> str:
    """Read the beginning of an error response's body, and return it as one line.

    A compressed body is ignored, because its content may be a thousand times as large.
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        return ""
    body = b""
    with contextlib.suppress(httpx.HTTPError):  # a result without the body is enough
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) >= MAX_BODY_BYTES:
                break
    return without_secrets(" ".join(body[:MAX_BODY_BYTES].decode(errors="replace").split()))


def _to_result(status: int, headers: httpx.Headers, text: str, now: datetime) -> SendResult:
    if 200 <= status < 300:
        return SendResult(ok=True, message="delivered", status=status)
    message = f"the endpoint answered {status}"
    if 300 <= status < 400:
        location = without_secrets(headers.get("location", "nowhere")[:300])
        message += f" to {location}; redirects are not followed"
    if text:
        message += f": {text}"
    wait = requested_wait(headers, now=now)
    return SendResult(ok=False, message=message, status=status, retry_after=wait)


def register(registry: Registry, settings: Settings, *, app: Webhooks | None = None) -> Webhooks:
    """Register the processor, and return its dependencies, which the caller must close."""
    app = app or Webhooks(settings)
    # a job's events are sent one after the other. A tenant whose endpoints never respond occupies
    # at most three slots.
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
