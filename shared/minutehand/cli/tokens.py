"""`minutehand token`: an access token for curl, a worker's key, a fresh random secret, new for old.

What is printed is a secret: it goes to standard output alone. `rotate` prints none: it changes a
file of secrets in place, readable by its owner only.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import jwt
import typer

from minutehand.cli.deploy import read_secrets
from minutehand.queue.keys import WORKER_ROLE
from minutehand.terminal.connection import CommandFailed, load_values
from minutehand.terminal.options import EnvFile, Json, Token, connected, speaking


class What(StrEnum):
    """Which secret."""

    USER = "user"
    WORKER = "worker"
    SECRET = "secret"
    ROTATE = "rotate"


#: Tokens of which functions take two at a time, written `new,old`.
ROTATED = ("WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN")
KEY = "SUPABASE_WORKER_KEY"


def token(
    what: Annotated[
        What,
        typer.Argument(
            help="user: an access token; worker: SUPABASE_WORKER_KEY; secret: random; "
            "rotate: new ones into --secrets."
        ),
    ] = What.USER,
    *,
    signing_key: Annotated[
        Path | None,
        typer.Option(help="For worker: the imported key of `supabase gen signing-key` (JWK)."),
    ] = None,
    secrets_file: Annotated[
        Path | None, typer.Option("--secrets", help="For rotate: the file that deploy reads.")
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="For rotate: drop the old tokens, once the new run.")
    ] = False,
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
    if what is What.ROTATE:
        with speaking(as_json) as output:
            changed = rotate(secrets_file, env_file, signing_key, days, finish=finish)
            then = f"minutehand deploy <stage> --secrets {secrets_file} --secrets-only"
            after = (
                "the old ones are refused from then on"
                if finish
                else "running functions follow within five minutes; later the same with --finish"
            )
            output.value(
                {"changed": changed, "next": then},
                text=f"{', '.join(changed)}; now {then}: {after}",
            )
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


def rotate(
    secrets_file: Path | None,
    env_file: Path | None,
    signing_key: Path | None,
    days: float,
    *,
    finish: bool,
) -> list[str]:
    """Write new tokens before the old ones into a file of secrets; return what changed.

    With `signing_key` also a new key for the worker, whose old one stays valid until it expires.

    Raises:
        CommandFailed: No file, one that others may read, or one in the middle of a rotation.
    """
    if secrets_file is None:
        raise CommandFailed(
            "rotate needs the file that deploy reads",
            code="no_secrets_file",
            fix="minutehand token rotate --secrets secrets.env",
        )
    values = read_secrets(secrets_file)
    new: dict[str, str] = {}
    for name in ROTATED:
        now = [part.strip() for part in values.get(name, "").split(",") if part.strip()]
        if finish:
            new |= {name: now[0]} if len(now) > 1 else {}
            continue
        if len(now) > 1:
            raise CommandFailed(
                f"{name} holds two tokens: a rotation is under way",
                code="rotation_under_way",
                fix="deploy with --secrets-only, then `minutehand token rotate --finish`",
            )
        new[name] = ",".join([secrets.token_urlsafe(32), *now])
    if signing_key is not None and not finish:
        url = values.get("SUPABASE_URL") or load_values(env_file).get("SUPABASE_URL", "")
        if not url:
            raise CommandFailed(
                "SUPABASE_URL is not set", code="not_configured", fix="--env-file prod.env"
            )
        new[KEY] = sign_with_key(signing_key, url, days)
    if not new:
        raise CommandFailed(
            "there is nothing to finish: each token is one", code="nothing_to_finish"
        )
    replace_values(secrets_file, new)
    return list(new)


def replace_values(path: Path, new: Mapping[str, str]) -> None:
    """Write `new` into a file of KEY=value lines: all or nothing, other lines as they were.

    Raises:
        CommandFailed: There is no such file.
    """
    if not path.exists():
        raise CommandFailed(f"{path} does not exist", code="no_secrets_file")
    left = dict(new)
    lines = []
    for line in path.read_text("utf-8").splitlines():
        name = line.partition("=")[0].removeprefix("export ").strip()
        lines.append(f"{name}={left.pop(name)}" if name in left else line)
    lines += [f"{name}={value}" for name, value in left.items()]
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    beside.touch(mode=0o600, exist_ok=False)
    try:
        beside.write_text("\n".join(lines) + "\n", "utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


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
