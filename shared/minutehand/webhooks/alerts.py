"""The processor of `alert`: write the mail that says that a threshold was reached, or no longer is.

Webhooks learn of it by the outbox, before this runs; thresholds are watched in SQL.
"""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel

from minutehand.config import ConfigurationError
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Fail

SMTP_SECONDS = 20.0
EXAMPLE = "smtps://user:secret@mail.example:465"

#: What each metric is called, and how its values are written.
METRICS: Mapping[str, tuple[str, str]] = {
    "failed": ("failed jobs", "{:g}"),
    "failure_share": ("share of failed jobs", "{:.1%}"),
    "queue_p95_seconds": ("queue time, 95th percentile", "{:.1f} s"),
    "oldest_due_seconds": ("age of the oldest due job", "{:.0f} s"),
    "queued": ("jobs that are due", "{:g}"),
}


class Alert(BaseModel):
    """What a threshold says, and to whom."""

    name: str
    state: Literal["raised", "resolved"]
    metric: str
    threshold: float
    minutes: int
    value: float | None = None
    of_type: str | None = None
    at: datetime
    mail: tuple[str, ...] = ()


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


def message_of(alert: Alert, job_id: str, sender: str) -> EmailMessage:
    """Word an alert; the same job gives the same Message-ID, so that a repeat is one mail."""
    what, form = METRICS.get(alert.metric, (alert.metric, "{:g}"))
    value = "nothing to measure" if alert.value is None else form.format(alert.value)
    verb = "reached" if alert.state == "raised" else "is below"
    message = EmailMessage()
    message["Subject"] = f"[Minutehand] {alert.name}: {alert.state}"
    message["From"] = sender
    message["To"] = ", ".join(alert.mail)
    message["Message-ID"] = f"<{job_id}@alerts.minutehand>"
    message.set_content(
        f"{what}{f' of {alert.of_type}' if alert.of_type else ''} {verb} its threshold.\n\n"
        f"Value:     {value}\n"
        f"Threshold: {form.format(alert.threshold)}\n"
        f"Within:    {alert.minutes} minutes\n"
        f"At:        {alert.at:%Y-%m-%d %H:%M:%S} UTC\n"
    )
    return message


class Alerts:
    """What the processor needs: the mail server, if there is one."""

    def __init__(self, server: MailServer | None) -> None:
        self._server = server

    async def send(self, job: Job[Alert], ctx: JobContext) -> dict[str, int | str] | Fail:
        """Write the mail; without addresses there is nothing left to do."""
        alert = job.payload
        if not alert.mail:
            return {"mailed": 0}
        if self._server is None:
            return Fail("no mail server is configured: set SMTP_URL and MAIL_FROM")
        message = message_of(alert, job.id, self._server.sender)
        await ctx.step("mail", lambda: asyncio.to_thread(self._send, message))
        return {"mailed": len(alert.mail)}

    def _send(self, message: EmailMessage) -> str:
        if self._server is None:
            raise RuntimeError("checked by the caller")
        self._server.send(message)
        return str(message["Message-ID"])
