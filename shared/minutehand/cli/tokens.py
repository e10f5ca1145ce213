"""`minutehand token`, which prints an access token for curl, a worker's key or a random secret.

The printed value is a secret, so that it is written to standard output only.
"""

import json
import secrets
import time
from pathlib import Path
from typing import Annotated, Literal

import jwt
import typer

from minutehand.queue.credentials import WORKER_ROLE
from minutehand.terminal.connection import CommandFailed, Connection, reject_tracked
from minutehand.terminal.options import EnvFile, Token, connected, verb
from minutehand.terminal.output import Output

TokenKind = Literal["user", "worker", "secret"]


@verb
def token(
    output: Output,
    kind: Annotated[
        TokenKind,
        typer.Argument(help="user: an access token; worker: SUPABASE_WORKER_KEY; secret: random."),
    ] = "user",
    *,
    signing_key: Annotated[
        Path | None,
        typer.Option(help="For worker: the imported key of `supabase gen signing-key` (JWK)."),
    ] = None,
    access_token: Token = None,
    env_file: EnvFile = None,
) -> None:
    """Print an access token, a worker's key or a random secret."""
    if kind == "secret":
        name, value = "secret", secrets.token_urlsafe(32)
    else:
        with connected(env_file, access_token) as connection:
            if kind == "user":
                name, value = "access_token", connection.token
            else:
                name, value = "worker_key", new_worker_key(connection, signing_key)
    output.value({name: value}, text=value)


def new_worker_key(connection: Connection, signing_key: Path | None) -> str:
    """Create a worker's key, valid for a year, that the signing key or legacy JWT secret signs.

    The worker's key has only the rights of a database role that may execute a few functions.
    """
    now = int(time.time())
    claims = {
        "role": WORKER_ROLE,
        "iss": f"{connection.need('SUPABASE_URL')}/auth/v1",
        # add a random id, so that two keys of the same second differ
        "jti": secrets.token_hex(8),
        "iat": now,
        "exp": now + 365 * 24 * 3600,
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
    reject_tracked(path)
    try:
        document = json.loads(path.read_text("utf-8"))
        key = jwt.PyJWK(document[0] if isinstance(document, list) else document)
        if not hasattr(key.key, "private_bytes"):
            raise ValueError("the key is a public key")
    except (OSError, ValueError, KeyError, IndexError, jwt.PyJWTError) as error:
        raise CommandFailed(
            f"{path} must contain a private key: {error}",
            code="bad_key",
            fix="create one with `supabase gen signing-key --algorithm ES256` and import it",
        ) from error
    return key
