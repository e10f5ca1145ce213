"""Mail to invited people: Supabase Auth makes the account and sends the link.

Who belongs to a workspace is left to the SQL functions; this only lets the person sign in.
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
    is_key_refused,
    reachable,
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
    """Have Auth mail a link to a person who has no account; return whether it did.

    The link leads to CONSOLE_URL or API_URL, else to the project's Site URL; it must be one of the
    project's redirect URLs, or Auth takes the Site URL instead.

    Args:
        connection: With SUPABASE_SECRET_KEY.
        invited: What `set_member` answered: `email` and `state`. Members get no mail.

    Raises:
        CommandFailed: Auth refused, or could not send; the invitation to the workspace stays.

    References:
        https://supabase.com/docs/reference/javascript/auth-admin-inviteuserbyemail
    """
    if invited["state"] == "member":
        return False
    url = connection.need("SUPABASE_URL").rstrip("/")
    to = connection.values.get("CONSOLE_URL") or connection.values.get("API_URL")
    with reachable(f"Supabase at {url}"):
        answer = httpx.post(
            f"{url}/auth/v1/invite",
            params={"redirect_to": to} if to else {},
            headers=dict(secret_headers(connection.need("SUPABASE_SECRET_KEY"))),
            json={"email": invited["email"]},
            timeout=TIMEOUT,
        )
    if answer.is_success:
        return True
    if is_key_refused(answer):
        raise CommandFailed(
            f"SUPABASE_SECRET_KEY is refused: {said_by_auth(answer)}",
            code="key_refused",
            fix="copy it again from Project settings → API keys",
        )
    code = _code(answer)
    if code in KNOWN:
        return False
    raise CommandFailed(
        f"{invited['email']} is invited, and no mail was sent: {said_by_auth(answer)}",
        code=code,
        fix=FIXES.get(
            code,
            "send the console's address yourself, and add the person under Authentication → Users",
        ),
    )


def _code(answer: httpx.Response) -> str:
    try:
        body = answer.json()
    except ValueError:
        body = {}
    word = body.get("error_code") if isinstance(body, dict) else None
    return str(word or answer.status_code)
