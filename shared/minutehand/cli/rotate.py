"""`minutehand rotate`: new shared tokens and a new worker key, in a file and in SSM.

In two steps, so that nothing stops: the new ones are taken beside the old, then `--finish` ends the
old. `--now` is both at once, for what was stolen. Which functions get which secrets is left to
minutehand.deploy.parameters.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import jwt
import typer

from minutehand.cli.account import told
from minutehand.cli.deploy import (
    Plan,
    check_secrets,
    parameters,
    put_secrets,
    read_secrets,
    sign_in,
)
from minutehand.cli.tokens import new_worker_key, replace_values
from minutehand.terminal.connection import CommandFailed, Connection, read_env_file
from minutehand.terminal.options import EnvFile, verb
from minutehand.terminal.output import Output

KEY = "SUPABASE_WORKER_KEY"
#: Tokens of which functions take two at a time, written `new,old`.
TOKENS = ("WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN")
#: Functions read their secrets again after five minutes at the latest.
GRACE_SECONDS = 360


#: One half of the secrets.
Secrets = Literal["tokens", "key"]


@verb
def rotate(
    output: Output,
    *,
    secrets_file: Annotated[
        Path | None,
        typer.Option(
            "--secrets", help="The file that deploy reads; without, the new values are printed."
        ),
    ] = None,
    signing_key: Annotated[
        Path | None,
        typer.Option(
            help="The imported key of `supabase gen signing-key`; default: SUPABASE_JWT_SECRET."
        ),
    ] = None,
    days: Annotated[float, typer.Option(help="How long the new worker key is valid.")] = 365,
    only: Annotated[
        Secrets | None,
        typer.Option(help="The two shared tokens, or the worker's key; default: both."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Also write the stage's secrets to SSM, as deploy does.")
    ] = None,
    region: Annotated[str, typer.Option(envvar="AWS_REGION")] = "us-east-1",
    finish: Annotated[
        bool, typer.Option("--finish", help="Second step: revoke the old tokens and keys.")
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="After a leak: both steps at once, without overlap.")
    ] = False,
    env_file: EnvFile = None,
) -> None:
    """Replace the shared tokens and the worker's key, without a stop."""
    if finish and now:
        raise CommandFailed("--now leaves nothing to finish", code="usage", fix="omit one")
    held = dict(os.environ) if secrets_file is None else read_secrets(secrets_file)
    # never .local/env: keys of a stack on this machine are not the ones to refuse
    known = {} if env_file is None else read_env_file(_present(env_file))
    connection = Connection({**os.environ, **known, **held})
    new: dict[str, str] = {}
    if only != "key":
        new |= _tokens(held, finish=finish, now=now)
    if only != "tokens" and not finish:
        new[KEY] = new_worker_key(connection, signing_key, days)
    key = None if only == "tokens" or not (finish or now) else new.get(KEY, held.get(KEY))
    if not new and not key:
        raise CommandFailed(
            "there is nothing to finish: each token has one value", code="nothing_to_finish"
        )
    plan = _plan(stage, region, secrets_file, {**held, **new})
    _check(connection if key else None, plan, output)

    if secrets_file is not None and new:
        replace_values(secrets_file, new)
        output.note(f"{', '.join(new)} replaced in {secrets_file}")
    if plan is not None:
        with told(region):
            put_secrets(plan)
        output.note(f"written to SSM for stage {stage}; functions follow within five minutes")
    refused = None
    if key:
        refused = _refuse_before(connection, key, 0 if now else GRACE_SECONDS)
        output.note(f"worker keys issued before are refused from {refused['from']} on")
    then = _next(secrets_file, stage, changed=bool(new), ended=finish or now)
    answer: dict[str, Any] = {"changed": list(new), "refused": refused, "next": then}
    if secrets_file is not None:
        output.value(answer, text=f"rotated{then and '; '}{then}")
        return
    lines = "\n".join(f"{name}={value}" for name, value in new.items())
    output.value({**answer, "values": new}, text=lines or "rotated")
    output.note(then)


def _check(connection: Connection | None, plan: Plan | None, output: Output) -> None:
    """Ask for all that is needed before anything is changed."""
    if connection is not None:
        for name in ("SUPABASE_URL", "SUPABASE_SECRET_KEY"):
            connection.need(name)
    if plan is not None:
        with told(plan.region):
            check_secrets(plan)
            sign_in(plan, output)


def _present(env_file: Path) -> Path:
    if not env_file.is_file():
        raise CommandFailed(f"{env_file} does not exist", code="no_env_file")
    return env_file


def _tokens(held: Mapping[str, str], *, finish: bool, now: bool) -> dict[str, str]:
    """New before old; with `finish` the new alone, with `now` others alone."""
    new: dict[str, str] = {}
    for name in TOKENS:
        have = [part.strip() for part in held.get(name, "").split(",") if part.strip()]
        if finish:
            new |= {name: have[0]} if len(have) > 1 else {}
        elif now:
            new[name] = secrets.token_urlsafe(32)
        elif len(have) > 1:
            raise CommandFailed(
                f"{name} holds two tokens: a rotation is under way",
                code="rotation_under_way",
                fix="deploy with --secrets-only, then `minutehand rotate --finish`",
            )
        else:
            new[name] = ",".join([secrets.token_urlsafe(32), *have])
    return new


def _plan(
    stage: str | None, region: str, secrets_file: Path | None, values: Mapping[str, str]
) -> Plan | None:
    if stage is None:
        return None
    if secrets_file is None:
        raise CommandFailed("--stage needs --secrets, with every secret", code="no_secrets_file")
    parameters(stage)
    return Plan(stage, region, values, os.environ.get("AWS_ENDPOINT_URL"))


def _refuse_before(connection: Connection, key: str, grace_seconds: int) -> Any:
    """Have the database refuse every worker key that is older than this one."""
    try:
        issued_at = int(jwt.decode(key, options={"verify_signature": False})["iat"])
    except (jwt.PyJWTError, KeyError) as error:
        raise CommandFailed(f"{KEY} must be a JWT with `iat`: {error}", code="bad_key") from error
    return connection.rpc(
        "revoke_worker_keys",
        {
            "p_before": datetime.fromtimestamp(issued_at, UTC).isoformat(),
            "p_grace_seconds": grace_seconds,
        },
        as_operator=True,
    )


def _next(secrets_file: Path | None, stage: str | None, *, changed: bool, ended: bool) -> str:
    """What is left to do, or an empty string."""
    steps = []
    if changed and secrets_file is None:
        steps.append("put them where your functions read them")
    elif changed and stage is None:
        steps.append(f"now minutehand deploy <stage> --secrets {secrets_file} --secrets-only")
    if not ended:
        steps.append("once every caller has the new ones, the same with --finish")
    return "; ".join(steps)
