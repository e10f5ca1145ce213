"""Mail to who is invited, by Supabase Auth's own endpoint; its answers as Auth writes them."""

# ruff: noqa: E501 - one refusal per line reads as the table it is
from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from minutehand.cli.invitations import send_invitation
from minutehand.terminal.connection import CommandFailed, Connection
from tests.e2e.console.worker import delete
from tests.support.auth_mail import Auth, serving
from tests.support.command import Run
from tests.support.stacks import RunningStack

SECRET = "sb_secret_0123456789abcdefghijkl_01234567"
INVITED = {"email": "ada@example.test", "state": "invited"}


def knowing(auth: Auth, **values: str) -> Connection:
    """A shell that knows this project."""
    return Connection({"SUPABASE_URL": auth.url, "SUPABASE_SECRET_KEY": SECRET, **values})


def test_auth_is_asked_as_its_administration_is() -> None:
    """The secret key as `apikey` alone, and where the link leads."""
    with serving(Auth()) as auth:
        sent = send_invitation(knowing(auth, API_URL="https://jobs.example.com"), INVITED)
        send_invitation(knowing(auth), INVITED)
        member = send_invitation(knowing(auth), {**INVITED, "state": "member"})

    (body, query, headers), (_, nowhere, _) = auth.asked
    assert (sent, member) == (True, False)
    assert body == {"email": "ada@example.test"}
    assert query == {"redirect_to": ["https://jobs.example.com"]}
    assert nowhere == {}
    assert headers["apikey"] == SECRET
    assert "authorization" not in headers


#: https://supabase.com/docs/guides/auth/debugging/error-codes
REFUSALS: list[tuple[int, dict[str, Any], str, str]] = [
    (429, {"code": 429, "error_code": "over_email_send_rate_limit", "msg": "email rate limit exceeded"}, "over_email_send_rate_limit", "SMTP"),
    (400, {"code": 400, "error_code": "email_address_not_authorized", "msg": "Email address \"ada@example.test\" cannot be used as it is not authorized"}, "email_address_not_authorized", "own SMTP server"),
    (400, {"code": 400, "error_code": "validation_failed", "msg": "Unable to validate email address: invalid format"}, "validation_failed", "correct the address"),
    (500, {"code": 500, "error_code": "unexpected_failure", "msg": "Error sending invite email"}, "unexpected_failure", "logs of Auth"),
    (401, {"message": "Invalid API key", "hint": "Double check your Supabase `anon` or `service_role` API key."}, "key_refused", "API keys"),
    (502, {}, "502", "Authentication → Users"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "code", "fix"), REFUSALS, ids=[r[2] for r in REFUSALS])
def test_a_refusal_says_what_to_do(status: int, body: dict[str, Any], code: str, fix: str) -> None:
    """The person is invited all the same, so it also says who to write to."""
    with serving(Auth(status=status, body=body)) as auth, pytest.raises(CommandFailed) as caught:
        send_invitation(knowing(auth), INVITED)

    assert caught.value.code == code
    assert fix in str(caught.value.fix)
    if "msg" in body:
        assert body["msg"] in str(caught.value)


def test_an_address_that_has_an_account_is_mailed_a_link_too() -> None:
    """They are asked as well; the link makes no account where there is none after all."""
    told = {"code": 422, "error_code": "email_exists", "msg": "already been registered"}
    with serving(Auth(status=422, body=told)) as auth:
        sent = send_invitation(knowing(auth, API_URL="https://jobs.example.com"), INVITED)

    assert sent is True
    body, query, headers = auth.asked[1]
    assert body == {"email": "ada@example.test", "create_user": False}
    assert query == {"redirect_to": ["https://jobs.example.com"]}
    assert headers["apikey"] == SECRET


def test_an_auth_that_is_unavailable_is_said() -> None:
    """Not as a traceback."""
    with serving(Auth()) as auth:
        gone = knowing(auth)

    with pytest.raises(CommandFailed, match="does not answer"):
        send_invitation(gone, INVITED)


def test_the_first_manager_is_mailed(stack: RunningStack, tmp_path: Path) -> None:
    """As the deploy page has it."""
    env = tmp_path / "prod.env"
    name = f"Initech {uuid.uuid4().hex[:8]}"
    with serving(Auth(behind=stack.supabase_url)) as auth:
        env.write_text(
            f"SUPABASE_URL={auth.url}\nAPI_URL=https://jobs.example.com\n"
            f"SUPABASE_PUBLISHABLE_KEY={stack.supabase_publishable_key}\n"
            f"SUPABASE_SECRET_KEY={stack.supabase_secret_key}\n"
        )
        command = ["workspaces", "create", name, "--manager", "ada@example.test", "-e", str(env)]
        try:
            done = Run()(*command, "--mail")
        finally:
            delete(stack, "delete from public.workspaces where name = %s", name)

    assert "mails a link" in done.stdout
    assert auth.asked[0][0] == {"email": "ada@example.test"}
