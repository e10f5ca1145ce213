"""The processor of `alert`: mail and posts that say that a threshold was reached, or no longer is.

Webhooks learn of it by the outbox, before this runs; thresholds are watched in SQL.
"""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel

from minutehand.config import ConfigurationError
from minutehand.webhooks.sent import Sent
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Fail, Retry

SMTP_SECONDS = 20.0
SERVER_ERRORS = frozenset(range(500, 600))
EXAMPLE = "smtps://user:secret@mail.example:465"

#: How values are written, by the last word of their metric.
FORMS: Mapping[str, str] = {"share": "{:.1%}", "seconds": "{:.1f} s"}


class Alert(BaseModel):
    """What a threshold says; to whom is asked when the mail is sent."""

    name: str
    state: Literal["raised", "resolved"]
    metric: str
    #: The metric as people say it.
    words: str
    threshold: float
    minutes: int
    value: float | None = None
    of_type: str | None = None
    at: datetime


@dataclass(frozen=True, slots=True)
class MailServer:
    """The mail server, and the sender."""

    host: str
    port: int
    sender: str
    user: str | None = None
    password: str | None = None
    is_encrypted: bool = True

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> MailServer | None:
        """Read SMTP_URL (`smtps://` or `smtp://` with STARTTLS) and MAIL_FROM; None without both.

        Raises:
            ConfigurationError: SMTP_URL is not the address of a mail server.
        """
        url, sender = environ.get("SMTP_URL", ""), environ.get("MAIL_FROM", "")
        if not url or not sender:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
            raise ConfigurationError("SMTP_URL", "must begin with smtps:// or smtp://", EXAMPLE)
        is_encrypted = parts.scheme == "smtps"
        return cls(
            host=parts.hostname,
            port=parts.port or (465 if is_encrypted else 587),
            sender=sender,
            user=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            is_encrypted=is_encrypted,
        )

    def send(self, message: EmailMessage) -> None:
        """Hand a message over; blocks for at most `SMTP_SECONDS` a step.

        Raises:
            OSError: The server cannot be reached, or refused; `smtplib` names the reason.
        """
        tls = ssl.create_default_context()
        connection: smtplib.SMTP = (
            smtplib.SMTP_SSL(self.host, self.port, timeout=SMTP_SECONDS, context=tls)
            if self.is_encrypted
            else smtplib.SMTP(self.host, self.port, timeout=SMTP_SECONDS)
        )
        with connection as smtp:
            smtp.ehlo()
            if not self.is_encrypted and smtp.has_extn("starttls"):
                smtp.starttls(context=tls)
                smtp.ehlo()
            if self.user is not None:
                smtp.login(self.user, self.password or "")
            smtp.send_message(message)


def sentence_of(alert: Alert) -> str:
    """What happened, in one sentence."""
    verb = "reached" if alert.state == "raised" else "is below"
    return f"{alert.words}{f' of {alert.of_type}' if alert.of_type else ''} {verb} its threshold."


def facts_of(alert: Alert) -> dict[str, str]:
    """The rest by name, as people read it."""
    form = FORMS.get(alert.metric.rpartition("_")[2], "{:g}")
    return {
        "Alert": alert.name,
        "Value": "nothing to measure" if alert.value is None else form.format(alert.value),
        "Threshold": form.format(alert.threshold),
        "Within": f"{alert.minutes} minutes",
        "At": f"{alert.at:%Y-%m-%d %H:%M:%S} UTC",
    }


def slack_body(alert: Alert) -> dict[str, Any]:
    """A message for Slack's incoming webhooks.

    Names are shown as written: a plain text has no mentions and no links.

    References:
        https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks,
        https://docs.slack.dev/reference/block-kit/blocks
    """
    mark = ":red_circle:" if alert.state == "raised" else ":large_green_circle:"
    facts = [
        {"type": "plain_text", "text": f"{name}: {value}"[:2000], "emoji": False}
        for name, value in facts_of(alert).items()
    ]
    sentence = {"type": "plain_text", "text": f"{mark} {sentence_of(alert)}"[:3000], "emoji": True}
    # the text is what a notification shows; Slack reads & < > in it as its own
    text = sentence_of(alert).translate({ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"})
    return {
        "text": text,
        "blocks": [
            {"type": "section", "text": sentence},
            {"type": "section", "fields": facts},
        ],
    }


def json_body(alert: Alert) -> dict[str, Any]:
    """A message for any other receiver: a text for people, and the alert as webhooks have it."""
    return {
        "type": f"alert.{alert.state}",
        "timestamp": alert.at,
        "text": sentence_of(alert),
        "data": alert.model_dump(mode="json"),
    }


BODIES = {"slack": slack_body, "json": json_body}


def message_of(alert: Alert, job_id: str, sender: str, to: Sequence[str]) -> EmailMessage:
    """Word an alert; the same job gives the same Message-ID, so that a repeat is one mail.

    The subject has none of a manager's words, since it comes from the operator's address.
    """
    message = EmailMessage()
    message["Subject"] = f"[Minutehand] Alert {alert.state}: {alert.words}"
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Message-ID"] = f"<{job_id}@alerts.minutehand>"
    facts = "".join(f"{f'{name}:':<11}{value}\n" for name, value in facts_of(alert).items())
    message.set_content(f"{sentence_of(alert)}\n\n{facts}")
    return message


class Alerts:
    """What the processor needs.

    Args:
        server: The mail server, if there is one.
        recipients: To whom it goes, by the leased job's id and fence, see `alert_recipients`.
        post: Posts a body to a sealed address of a workspace.
    """

    def __init__(
        self,
        server: MailServer | None,
        recipients: Callable[[str, int], Awaitable[Mapping[str, Any]]],
        post: Callable[[str, Mapping[str, Any], Mapping[str, Any]], Awaitable[Sent]],
    ) -> None:
        self._server = server
        self._recipients = recipients
        self._post = post

    async def send(
        self, job: Job[Alert], ctx: JobContext
    ) -> dict[str, int | str | bool] | Retry | Fail:
        """Write the mail, then post; without either there is nothing left to do."""
        found = await self._recipients(job.id, job.fence)
        to, target = found["mail"], found.get("post")
        problem = None
        if to and self._server is None:
            problem = "no mail server is configured: set SMTP_URL and MAIL_FROM"
        elif to and self._server is not None:
            message = message_of(job.payload, job.id, self._server.sender, to)
            await ctx.step("mail", lambda: asyncio.to_thread(self._send, message))
        if target is not None:
            body = BODIES[target["format"]](job.payload)
            sent = await self._post(found["workspace_id"], target, body)
            said = f"{target['host']}: {sent.message}"
            if not sent.ok and (sent.status is None or sent.status in {408, 429} | SERVER_ERRORS):
                return Retry(said, after=sent.retry_after)
            problem = problem or (None if sent.ok else said)
        if problem is not None:
            return Fail(problem)
        return {"mailed": len(to), "posted": target is not None}

    def _send(self, message: EmailMessage) -> str:
        if self._server is None:
            raise RuntimeError("checked by the caller")
        self._server.send(message)
        return str(message["Message-ID"])
