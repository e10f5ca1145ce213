"""Mail of alerts: handed to a real SMTP conversation, refused by one, worded, and switched off."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from types import SimpleNamespace
from typing import Any, Self
from uuid import UUID

import pytest

from minutehand.config import ConfigurationError, Settings
from minutehand.functions.jobs.alerts import AlertBody, put_alert
from minutehand.web.errors import ApiError
from minutehand.webhooks.alerts import Alert, Alerts, MailServer, message_of, slack_body
from minutehand.webhooks.sent import Sent
from minutehand.worker.testing import ProcessorTest

ALERT = Alert(
    name="too many failures",
    state="raised",
    metric="failure_share",
    words="share of failed jobs",
    threshold=0.1,
    minutes=15,
    value=0.25,
    of_type="send_digest",
    at=datetime(2026, 11, 21, 6, 30, tzinfo=UTC),
)
MEMBERS = ("ada@acme.test", "bob@acme.test")


def alerts(server: MailServer | None, to: Sequence[str] = MEMBERS) -> Alerts:
    """The processor's object; SQL says to whom, see tests/sql/test_alerts.py."""

    async def recipients(job_id: str, fence: int) -> dict[str, Any]:
        return {"mail": to, "post": None}

    async def post(*_: Any) -> Sent:
        raise AssertionError("there is nowhere to post to")

    return Alerts(server, recipients, post)


class Mailbox:
    """A mail server of RFC 5321's least commands; says no to recipients in `refused`."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.recipients: list[str] = []
        self.refused: set[str] = set()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client."""

        def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())

        say("220 mailbox")
        while line := (await reader.readline()).decode().strip():
            word = line.split(":")[0].split()[0].upper()
            if word == "RCPT":
                address = line.split("<")[1].split(">")[0]
                if address in self.refused:
                    say("550 no such mailbox")
                else:
                    self.recipients.append(address)
                    say("250 ok")
            elif word == "DATA":
                say("354 go ahead")
                text = (await reader.readuntil(b"\r\n.\r\n")).decode()
                self.messages.append(text)
                say("250 kept")
            elif word == "QUIT":
                say("221 bye")
                break
            else:
                say("250 ok")
        writer.close()


@pytest.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    """A mail server on a free port."""
    box = Mailbox()
    server = await asyncio.start_server(box.serve, "127.0.0.1", 0)
    box.port = server.sockets[0].getsockname()[1]
    async with server:
        yield box


def server_at(port: int) -> MailServer:
    """The mail server as the environment would name it."""
    made = MailServer.from_env(
        {"SMTP_URL": f"smtp://127.0.0.1:{port}", "MAIL_FROM": "minutehand@acme.test"}
    )
    assert made is not None
    return made


async def test_an_alert_is_written_to_each_address_once(mailbox: Mailbox) -> None:
    """Run again after a crash, the mail that was handed over is not written twice."""
    job = ProcessorTest(alerts(server_at(mailbox.port)).send, ALERT)

    first = await job.run()
    again = await job.run()

    assert first.result == again.result == {"mailed": 2, "posted": False}
    assert mailbox.recipients == ["ada@acme.test", "bob@acme.test"]
    [text] = mailbox.messages
    assert "Subject: [Minutehand] Alert raised: share of failed jobs" in text
    assert "too many failures" in text.partition("\r\n\r\n")[2]
    assert "25.0%" in text
    assert "share of failed jobs of send_digest reached its threshold" in text


async def test_a_refusal_and_a_server_that_is_unavailable_are_tried_again(mailbox: Mailbox) -> None:
    """The reason is the server's own."""
    mailbox.refused = {"ada@acme.test", "bob@acme.test"}
    refused = await ProcessorTest(alerts(server_at(mailbox.port)).send, ALERT).run()
    away = await ProcessorTest(alerts(server_at(1)).send, ALERT).run()

    assert refused.outcome == away.outcome == "retry"
    assert refused.error is not None
    assert "no such mailbox" in refused.error.message


async def test_without_addresses_or_a_server_nothing_is_pretended() -> None:
    """A webhook alone needs no mail; an address without a server is a failure that says so."""
    quiet = await ProcessorTest(alerts(None, ()).send, ALERT).run()
    unset = await ProcessorTest(alerts(None).send, ALERT).run()

    assert quiet.result == {"mailed": 0, "posted": False}
    assert (unset.outcome, unset.error and "SMTP_URL" in unset.error.message) == ("failed", True)


@pytest.mark.parametrize(
    ("sent", "outcome", "after"),
    [
        (Sent(ok=True, status=200, message="accepted"), "completed", None),
        (Sent(ok=False, message="no answer"), "retry", None),
        (Sent(ok=False, status=408, message="late"), "retry", None),
        (Sent(ok=False, status=429, message="busy", retry_after=timedelta(seconds=9)), "retry", 9),
        (Sent(ok=False, status=500, message="broken"), "retry", None),
        (Sent(ok=False, status=599, message="broken"), "retry", None),
        (Sent(ok=False, status=499, message="refused"), "failed", None),
    ],
)
async def test_an_alert_is_posted_and_tried_again_where_that_may_help(
    sent: Sent, outcome: str, after: float | None
) -> None:
    """In the receiver's own format, to the address of its workspace."""
    target = {"format": "json", "host": "chat.example"}
    posted: list[tuple[Any, ...]] = []

    async def recipients(job_id: str, fence: int) -> dict[str, Any]:
        assert (job_id, fence) == (job.job_id, 1)
        return {"mail": [], "post": target, "workspace_id": "w"}

    async def post(*given: Any) -> Sent:
        posted.append(given)
        return sent

    job = ProcessorTest(Alerts(None, recipients, post).send, ALERT)
    run = await job.run()

    text = "share of failed jobs of send_digest reached its threshold."
    data = ALERT.model_dump(mode="json")
    body = {"type": "alert.raised", "timestamp": ALERT.at, "text": text, "data": data}
    assert posted == [("w", target, body)]
    assert (run.outcome, run.retry_after_seconds) == (outcome, after)
    if outcome == "completed":
        assert run.result == {"mailed": 0, "posted": True}
    else:
        assert run.error is not None
        assert run.error.message == f"chat.example: {sent.message}"


def test_an_end_is_worded_as_one() -> None:
    """Resolved, with nothing left to measure."""
    over = ALERT.model_copy(update={"state": "resolved", "value": None, "of_type": None})

    text = message_of(over, "j1", "minutehand@acme.test", MEMBERS).as_string()

    assert "is below its threshold" in text
    assert "nothing to measure" in text
    assert "Message-ID: <j1@alerts.minutehand>" in text


class Talk:
    """A conversation with a mail server, as it was had."""

    def __init__(self, *where: Any, **how: Any) -> None:
        self.said: list[Any] = [(where, how)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.said.append("quit")

    def ehlo(self) -> None:
        self.said.append("ehlo")

    def has_extn(self, name: str) -> bool:
        return name == "starttls"

    def starttls(self, *, context: ssl.SSLContext | None = None) -> None:
        self.said.append(context)

    def login(self, user: str, password: str) -> None:
        self.said.append((user, password))

    def send_message(self, message: EmailMessage) -> None:
        self.said.append(message)


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_password_goes_to_a_server_that_has_proven_its_name(
    monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    """From the first byte, or by STARTTLS before it; and no step waits for ever."""
    talks: list[Talk] = []

    def talk(*where: Any, **how: Any) -> Talk:
        talks.append(Talk(*where, **how))
        return talks[0]

    monkeypatch.setattr(smtplib, "SMTP_SSL" if encrypted else "SMTP", talk)
    server = MailServer("m.example", 9, "a@x.test", "me", "pw", is_encrypted=encrypted)
    message = message_of(ALERT, "j1", server.sender, MEMBERS)

    server.send(message)

    [(where, how), *said] = talks[0].said
    context = how.pop("context") if encrypted else said.pop(1)
    assert (where, how) == (("m.example", 9), {"timeout": 20.0})
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    hellos = ["ehlo"] if encrypted else ["ehlo", "ehlo"]
    assert said == [*hellos, ("me", "pw"), message, "quit"]


def test_a_name_of_a_manager_s_is_nothing_to_slack_but_text() -> None:
    """Else it could call a whole channel, or show a link as another."""
    named = ALERT.model_copy(update={"of_type": "<!channel> & co", "name": ":boom: <x>"})

    body = slack_body(named)

    assert body["text"] == (
        "share of failed jobs of &lt;!channel&gt; &amp; co reached its threshold."
    )
    sentence, facts = body["blocks"]
    assert sentence["text"]["type"] == "plain_text"
    assert "<!channel> & co" in sentence["text"]["text"]
    assert facts["fields"][0]["text"] == "Alert: :boom: <x>"
    assert {(each["type"], each["emoji"]) for each in facts["fields"]} == {("plain_text", False)}
    over = slack_body(ALERT.model_copy(update={"state": "resolved"}))["blocks"][0]
    marks = [each["text"]["text"].split()[0] for each in (sentence, over)]
    assert marks == [":red_circle:", ":large_green_circle:"]


def test_the_environment_names_the_server() -> None:
    """Encrypted by default; a slip in the address is told at the start."""
    full = MailServer.from_env(
        {"SMTP_URL": "smtps://me:s%40crt@mail.example", "MAIL_FROM": "a@example.com"}
    )

    plain = MailServer.from_env({"SMTP_URL": "smtp://m.example", "MAIL_FROM": "a@example.com"})
    assert plain is not None
    assert (plain.port, plain.user, plain.password, plain.is_encrypted) == (587, None, None, False)
    assert full is not None
    assert (full.port, full.user, full.password, full.is_encrypted) == (465, "me", "s@crt", True)
    assert MailServer.from_env({"SMTP_URL": "smtp://m.example"}) is None
    assert MailServer.from_env({"MAIL_FROM": "a@example.com"}) is None
    with pytest.raises(ConfigurationError, match="SMTP_URL"):
        MailServer.from_env({"SMTP_URL": "https://mail.example", "MAIL_FROM": "a@example.com"})


@pytest.mark.parametrize("url", ["http://hooks.example/a", "https:///a", "hooks.example/a"])
async def test_outside_the_local_stage_an_alert_is_posted_to_https_alone(
    url: str,
) -> None:
    """Refused when it is put: the sender would refuse it too, when the alert is raised."""
    deployed = Settings(supabase_url="http://x.test", supabase_publishable_key="k", stage="prod")
    body = AlertBody.model_validate(
        {"metric": "failure_share", "threshold": 0.1, "post": {"format": "json", "url": url}}
    )
    services: Any = SimpleNamespace(settings=deployed)
    caller: Any = None

    with pytest.raises(ApiError) as refused:
        await put_alert(UUID(int=1), "late", body, caller, services)

    assert refused.value.status_code == 422
    assert refused.value.error == "post.url: must be an https address"
