"""Mail to invited people: Supabase Auth sends a link to sign in with, and makes the account.

Who belongs to a workspace is left to the SQL functions; the console that the link leads to asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from minutehand.queue.keys import secret_headers
from minutehand.terminal.connection import (
    TIMEOUT,
    CommandFailed,
    Connection,
    fields_of,
    reachable,
    refuse_key,
    said_by_auth,
)

#: What to do about Auth's refusals, by its `error_code`.
FIXES: Mapping[str, str] = {
    "over_email_send_rate_limit": "wait an hour, or set up your own SMTP server under "
    "Authentication → Emails: Supabase's own sends a few mails an hour",
    "email_address_not_authorized": "set up your own SMTP server under Authentication → Emails: "
    "Supabase's own mails to members of the organisation only",
    "email_address_invalid": "correct the address",
    "validation_failed": "correct the address",
    "signup_disabled": "allow new users under Authentication → Sign in / Providers",
    "unexpected_failure": "check the SMTP settings under Authentication → Emails, and the "
    "logs of Auth",
}
#: Auth knows the address, and its owner has confirmed it.
KNOWN = frozenset({"email_exists", "user_already_exists"})


def send_invitation(connection: Connection, invited: Mapping[str, Any]) -> bool:
    """Have Auth mail a link to an invited person, with an account or without; say whether it did.

    The link leads to CONSOLE_URL or API_URL, else to the project's Site URL; it must be one of the
    project's redirect URLs, or Auth takes the Site URL instead.

    Args:
        connection: With SUPABASE_SECRET_KEY.
        invited: What `set_member` answered: `email` and `state`. Members get no mail.

    References:
        https://supabase.com/docs/reference/javascript/auth-admin-inviteuserbyemail
    """
    if invited["state"] == "member":
        return False
    email = invited["email"]
    answer = _ask_auth(connection, "invite", {"email": email})
    if _code(answer) in KNOWN:
        answer = _ask_auth(connection, "otp", {"email": email, "create_user": False})
    if answer.is_success:
        return True
    refuse_key(answer, "SUPABASE_SECRET_KEY")
    code = _code(answer)
    raise CommandFailed(
        f"{email} is invited, and no mail was sent: {said_by_auth(answer)}",
        code=code,
        fix=FIXES.get(
            code,
            "send the console's address yourself, and add the person under Authentication → Users",
        ),
    )


def _ask_auth(connection: Connection, path: str, body: Mapping[str, Any]) -> httpx.Response:
    url = connection.need("SUPABASE_URL").rstrip("/")
    to = connection.values.get("CONSOLE_URL") or connection.values.get("API_URL")
    with reachable(f"Supabase at {url}"):
        return httpx.post(
            f"{url}/auth/v1/{path}",
            params={"redirect_to": to} if to else {},
            headers=dict(secret_headers(connection.need("SUPABASE_SECRET_KEY"))),
            json=body,
            timeout=TIMEOUT,
        )


def _code(answer: httpx.Response) -> str:
    return str(fields_of(answer).get("error_code") or answer.status_code)
