"""`minutehand token`: an access token for curl, a worker's key, a fresh random secret.

What is printed is a secret: it goes to standard output alone.
"""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Annotated, Literal

import jwt
import typer

from minutehand.queue.keys import WORKER_ROLE
from minutehand.terminal.connection import CommandFailed, Connection, refuse_tracked
from minutehand.terminal.options import EnvFile, Token, connected, verb
from minutehand.terminal.output import Output

TokenKind = Literal["user", "worker", "secret"]


@verb
def token(
    output: Output,
    what: Annotated[
        TokenKind,
        typer.Argument(help="user: an access token; worker: SUPABASE_WORKER_KEY; secret: random."),
    ] = "user",
    *,
    signing_key: Annotated[
        Path | None,
        typer.Option(help="For worker: the imported key of `supabase gen signing-key` (JWK)."),
    ] = None,
    days: Annotated[float, typer.Option(help="For worker: how long it is valid.")] = 365,
    given: Token = None,
    env_file: EnvFile = None,
) -> None:
    """Print a token."""
    if what == "secret":
        name, value = "secret", secrets.token_urlsafe(32)
    else:
        with connected(env_file, given) as connection:
            if what == "user":
                name, value = "access_token", connection.token
            else:
                name, value = "worker_key", new_worker_key(connection, signing_key, days)
    output.value({name: value}, text=value)


def new_worker_key(connection: Connection, signing_key: Path | None, days: float) -> str:
    """A worker's key, signed by the imported key, else with the project's legacy secret.

    It says a role with a handful of functions, and nothing else.
    """
    now = int(time.time())
    claims = {
        "role": WORKER_ROLE,
        "iss": f"{connection.need('SUPABASE_URL')}/auth/v1",
        "jti": secrets.token_hex(8),  # two keys of one second are two keys
        "iat": now,
        "exp": now + int(days * 24 * 3600),
    }
    if signing_key is not None:
        key = _private_key(signing_key)
        headers = {"kid": key.key_id} if key.key_id else None
        return jwt.encode(claims, key.key, key.algorithm_name, headers=headers)
    secret = connection.values.get("SUPABASE_JWT_SECRET", "")
    if not secret:
        raise CommandFailed(
            "the worker's key needs a signing key or SUPABASE_JWT_SECRET",
            code="missing_setting",
            fix="--signing-key key.json, the key that was imported into the project",
        )
    return jwt.encode(claims, secret, "HS256")


def _private_key(path: Path) -> jwt.PyJWK:
    refuse_tracked(path)
    try:
        document = json.loads(path.read_text("utf-8"))
        key = jwt.PyJWK(document[0] if isinstance(document, list) else document)
        if not hasattr(key.key, "private_bytes"):
            raise ValueError("its key is a public one")
    except (OSError, ValueError, KeyError, IndexError, jwt.PyJWTError) as error:
        raise CommandFailed(
            f"{path} holds no private key: {error}",
            code="bad_key",
            fix="make one with `supabase gen signing-key --algorithm ES256` and import it",
        ) from error
    return key
