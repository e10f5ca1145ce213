"""`minutehand token`: an access token for curl, a worker's key, a fresh random secret.

What is printed is a secret: it goes to standard output alone and into no file.
"""

from __future__ import annotations

import json
import secrets
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import jwt
import typer

from minutehand.queue.keys import WORKER_ROLE
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.options import EnvFile, Json, Token, connected, speaking

YEAR = 365 * 24 * 3600


class What(StrEnum):
    """Which secret."""

    USER = "user"
    WORKER = "worker"
    SECRET = "secret"


def token(
    what: Annotated[
        What,
        typer.Argument(help="user: an access token; worker: SUPABASE_WORKER_KEY; secret: random."),
    ] = What.USER,
    *,
    signing_key: Annotated[
        Path | None,
        typer.Option(help="For worker: the imported key of `supabase gen signing-key` (JWK)."),
    ] = None,
    days: Annotated[float, typer.Option(help="For worker: how long it is valid.")] = 365,
    given: Token = None,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Print a token."""
    if what is What.SECRET:
        with speaking(as_json) as output:
            value = secrets.token_urlsafe(32)
            output.value({"secret": value}, text=value)
        return
    with connected(as_json, env_file, given) as (output, connection):
        if what is What.USER:
            output.value({"access_token": connection.token}, text=connection.token)
            return
        if signing_key is not None:
            value = sign_with_key(signing_key, connection.need("SUPABASE_URL"), days)
        else:
            secret = connection.need("SUPABASE_JWT_SECRET")
            value = jwt.encode(
                worker_claims(connection.need("SUPABASE_URL"), days), secret, "HS256"
            )
        output.value({"worker_key": value}, text=value)


def worker_claims(supabase_url: str, days: float) -> dict[str, Any]:
    """What a worker's key says of itself: a role with a handful of functions, and nothing else."""
    now = int(time.time())
    return {
        "role": WORKER_ROLE,
        "iss": f"{supabase_url}/auth/v1",
        "jti": secrets.token_hex(8),  # two keys of one second are two keys
        "iat": now,
        "exp": now + int(days * 24 * 3600),
    }


def sign_with_key(path: Path, supabase_url: str, days: float) -> str:
    """A worker's key signed by an imported private key; the algorithm is the key's own.

    Raises:
        CommandFailed: The file holds no private JSON Web Key.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        key = jwt.PyJWK(document[0] if isinstance(document, list) else document)
    except (OSError, ValueError, KeyError, IndexError, jwt.PyJWTError) as error:
        raise CommandFailed(
            f"{path} holds no private key: {error}",
            code="bad_key",
            fix="make one with `supabase gen signing-key --algorithm ES256` and import it",
        ) from error
    if not hasattr(key.key, "private_bytes"):
        raise CommandFailed(f"{path} holds a public key only", code="bad_key")
    headers = {"kid": key.key_id} if key.key_id else None
    return jwt.encode(
        worker_claims(supabase_url, days), key.key, key.algorithm_name, headers=headers
    )
