"""`minutehand rotate`: a new worker key, put where the workers read it; the old ones are revoked.

Which functions get which secrets is left to minutehand.deploy.parameters.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import jwt
import typer

from minutehand.cli.tokens import replace_values, sign_with_key, worker_claims
from minutehand.queue.data_api import profile_headers
from minutehand.queue.keys import secret_headers
from minutehand.terminal.connection import TIMEOUT, CommandFailed, Connection, parsed, reachable
from minutehand.terminal.options import EnvFile, Json, connected
from minutehand.terminal.output import Output

NAME = "SUPABASE_WORKER_KEY"
#: Functions read their secrets again after five minutes at the latest.
GRACE_SECONDS = 360


def rotate(
    *,
    secrets_file: Annotated[
        Path | None,
        typer.Option("--secrets", help="The KEY=value file that holds SUPABASE_WORKER_KEY."),
    ] = None,
    signing_key: Annotated[
        Path | None,
        typer.Option(help="The imported key of `supabase gen signing-key` (JWK)."),
    ] = None,
    days: Annotated[float, typer.Option(help="How long the new key is valid.")] = 365,
    stage: Annotated[
        str | None, typer.Option(help="Also write the stage's secrets to SSM, as deploy does.")
    ] = None,
    region: Annotated[str, typer.Option(envvar="AWS_REGION")] = "us-east-1",
    now: Annotated[
        bool,
        typer.Option("--now", help="The key was stolen: revoke at once, not in six minutes."),
    ] = False,
    env_file: EnvFile = None,
    as_json: Json = False,
) -> None:
    """Make a new worker key and revoke the ones before it."""
    with connected(as_json, env_file) as (output, connection):
        issued_at = time.time()
        key = _new_key(connection, signing_key, days)
        if secrets_file is not None:
            replace_values(secrets_file, {NAME: key})
            output.note(f"1/3  {NAME} replaced in {secrets_file}")
        else:
            output.note(f"1/3  no --secrets file: put the new {NAME} where your workers read it")
        if stage is not None:
            _write_stage(stage, region, secrets_file, output)
        output.note("2/3  the workers' secrets are written" if stage else "2/3  no --stage")
        revoked = _revoke(connection, issued_at, 0 if now else GRACE_SECONDS)
        output.note(f"3/3  keys issued before are refused from {revoked['from']} on")
        told = {"revoked": revoked, "secrets": str(secrets_file) if secrets_file else None}
        if secrets_file is None:
            output.value({**told, "worker_key": key}, text=key)
        else:
            output.value(told, text="rotated")


def _new_key(connection: Connection, signing_key: Path | None, days: float) -> str:
    url = connection.need("SUPABASE_URL")
    if signing_key is not None:
        return sign_with_key(signing_key, url, days)
    secret = connection.need("SUPABASE_JWT_SECRET")
    return jwt.encode(worker_claims(url, days), secret, "HS256")


def _write_stage(stage: str, region: str, secrets_file: Path | None, output: Output) -> None:
    from minutehand.cli.account import told
    from minutehand.cli.deploy import Plan, planned, read_secrets

    if secrets_file is None:
        raise CommandFailed("--stage needs --secrets, with every secret", code="no_secrets_file")
    with told(region):
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        plan = Plan(stage, region, read_secrets(secrets_file), endpoint)
        for _, step in planned(plan, output, dry_run=False, secrets_only=True):
            step()


def _revoke(connection: Connection, issued_at: float, grace_seconds: int) -> Any:
    """Let the database refuse what was issued before; by the operator's key."""
    url, secret = connection.need("SUPABASE_URL"), connection.need("SUPABASE_SECRET_KEY")
    before = datetime.fromtimestamp(int(issued_at), UTC).isoformat()
    with (
        reachable(f"Supabase at {url}"),
        httpx.Client(
            base_url=url,
            timeout=TIMEOUT,
            headers={
                **secret_headers(secret),
                **profile_headers(connection.schema),
            },
        ) as client,
    ):
        return parsed(
            client.post(
                "/rest/v1/rpc/revoke_worker_keys",
                json={"p_before": before, "p_grace_seconds": grace_seconds},
            )
        )
