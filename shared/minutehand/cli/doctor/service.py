"""Supabase and the service from outside: keys, tokens, clocks, functions, the tick."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import jwt

from minutehand.cli.doctor.findings import Check, Finding, Reporter, Target
from minutehand.cli.doctor.settings import key_id, role_of
from minutehand.cli.queues import messages_line
from minutehand.cli.supabase_cli import how_to_migrate
from minutehand.config import ConfigurationError, Settings
from minutehand.queue.errors import QueueError
from minutehand.queue.keys import KEY_WARN_DAYS, WORKER_ROLE, days_left
from minutehand.queue.worker_client import WorkerQueue
from minutehand.terminal.connection import CommandFailed
from minutehand.version import VERSION

SUPABASE = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY")
SIGN_IN = (*SUPABASE, "API_URL")
SKEW_SECONDS = 5.0
TICK_SECONDS = 180.0
#: Share of messages held back in an hour that is worth a word.
MOST_HELD = 0.2
ASYMMETRIC = {"ES256", "RS256"}


def supabase(target: Target) -> Finding:
    """The URL answers and takes the key."""
    say = Reporter("supabase")
    url = target.values["SUPABASE_URL"].rstrip("/")
    answer = target.get(
        f"{url}/rest/v1/jobs?select=id&limit=1",
        headers={
            "apikey": target.values["SUPABASE_PUBLISHABLE_KEY"],
            "accept-profile": target.schemas.clients,
        },
    )
    if "PGRST106" in answer.text:
        return say.fail(
            f"the Data API does not expose the schema {target.schemas.clients}",
            f"add {target.schemas.clients} under Project settings → Data API → Exposed schemas;"
            " for a branch or `supabase start`, to `[api] schemas` of supabase/config.toml",
        )
    if answer.status_code == 404:
        return say.fail(
            f"{url} has no table jobs",
            f"{how_to_migrate(url, target.stage)}; or correct SUPABASE_URL",
        )
    if answer.status_code == 401 and "api" in answer.text.lower() and "key" in answer.text.lower():
        return say.fail(
            "SUPABASE_PUBLISHABLE_KEY is refused", "copy it again from Project settings → API keys"
        )
    if answer.status_code >= 500:
        return say.fail(f"{url} answers {answer.status_code}", "see Supabase's status page")
    return say.ok(f"{url} answers")


def exposed_schemas(target: Target) -> Finding:
    """The engine is not in the Data API's list."""
    say = Reporter("exposed-schemas")
    url = target.values["SUPABASE_URL"].rstrip("/")
    answer = target.get(
        f"{url}/rest/v1/job_types?select=job_type&limit=1",
        headers={
            "apikey": target.values["SUPABASE_PUBLISHABLE_KEY"],
            "accept-profile": target.schemas.engine,
        },
    )
    if answer.is_success:
        return say.fail(
            f"the schema {target.schemas.engine} is exposed",
            f"Project settings → Data API: expose {target.schemas.clients} and yours only",
        )
    return say.ok(f"{target.schemas.engine} is not exposed")


def clock_skew(target: Target) -> Finding:
    """Tokens are judged by clocks."""
    say = Reporter("clock-skew")
    before = time.time()
    answer = target.get(f"{target.values['SUPABASE_URL'].rstrip('/')}/auth/v1/health")
    if target.values.get("DATABASE_URL"):
        before = time.time()
        [(there,)] = target.ask("select extract(epoch from clock_timestamp())::float8")
        skew = there - (before + time.time()) / 2
    elif answer.headers.get("date"):
        there = parsedate_to_datetime(answer.headers["date"]).timestamp()
        skew = there - (before + time.time()) / 2
    else:
        return say.skip("no clock to compare with")
    if abs(skew) > SKEW_SECONDS:
        return say.fail(
            f"this machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead'}",
            "switch on time synchronisation: timedatectl set-ntp true",
        )
    return say.ok(f"{abs(skew):.1f} s")


def jwt_algorithm(target: Target) -> Finding:
    """Keys that can be rotated and published, rather than one shared secret."""
    say = Reporter("jwt-algorithm")
    url = target.values["SUPABASE_URL"].rstrip("/")
    answer = target.get(f"{url}/auth/v1/.well-known/jwks.json")
    keys = answer.json().get("keys", []) if answer.is_success else []
    found = sorted({str(key.get("alg")) for key in keys} & ASYMMETRIC)
    secret = target.values.get("SUPABASE_JWT_SECRET")
    if found:
        return say.ok(f"{', '.join(found)} published")
    if not secret:
        return say.fail(
            "no signing key is published and SUPABASE_JWT_SECRET is not set: every user is refused",
            "Project settings → JWT keys: make an ES256 key current",
        )
    if target.is_local:
        return say.ok("HS256 by a shared secret, as the local stack has it")
    return say.warn(
        "tokens are signed by a shared secret (HS256)",
        "Project settings → JWT keys: make an ES256 key current",
    )


def sign_in(target: Target) -> Finding:
    """A person's token passes our own verification."""
    say = Reporter("sign-in")
    try:
        token = target.person.token
    except CommandFailed as failed:
        if failed.code == "not_signed_in":
            return say.skip("no MINUTEHAND_EMAIL and MINUTEHAND_PASSWORD")
        return say.fail(str(failed), failed.fix or "check e-mail and password")
    header = jwt.get_unverified_header(token)
    worker_key = target.values.get("SUPABASE_WORKER_KEY")
    if (kid := header.get("kid")) and kid == key_id(worker_key or ""):
        return say.fail(
            "users' tokens are signed by the worker's own key: anyone with its file can sign in "
            "as any user",
            "Project settings → JWT keys: rotate to a key that Supabase made; the worker's is then "
            "previously used, and verifies",
        )
    if header["alg"] == "HS256":
        secret = target.values.get("SUPABASE_JWT_SECRET", "")
        try:
            jwt.decode(token, secret, algorithms=["HS256"], options={"verify_aud": False})
        except jwt.PyJWTError as error:
            return say.fail(
                f"Auth's tokens do not verify with SUPABASE_JWT_SECRET ({error})",
                "copy the JWT secret again from Project settings → JWT keys",
            )
    claims = jwt.decode(token, options={"verify_signature": False})
    lifetime = claims["exp"] - claims["iat"]
    if lifetime > 3600:
        return say.warn(
            f"access tokens live {lifetime} s: a removed member keeps access as long",
            "Authentication → Sessions: 3600 s or less",
        )
    return say.ok(f"tokens verify and live {lifetime} s")


def sign_up(target: Target) -> Finding:
    """An address is its owner's before it counts as an invited one."""
    say = Reporter("sign-up")
    url = target.values["SUPABASE_URL"].rstrip("/")
    answer = target.get(
        f"{url}/auth/v1/settings", headers={"apikey": target.values["SUPABASE_PUBLISHABLE_KEY"]}
    )
    if not answer.is_success:
        return say.skip(f"Auth answers {answer.status_code}, see supabase")
    told = answer.json()
    if target.is_local:
        return say.ok("open, as the local stack has it")
    page = "Authentication → Sign in / Providers"
    if told.get("mailer_autoconfirm") and told.get("external", {}).get("email"):
        return say.fail(
            "addresses are not confirmed: anyone can sign up with an invited address",
            f"{page} → Email: switch on Confirm email",
        )
    allowed = target.values.get("ALLOW_ANONYMOUS", "").lower() in {"1", "true", "yes", "on"}
    if told.get("external", {}).get("anonymous_users") and not allowed:
        return say.warn(
            "anonymous sign-ins are on, and ALLOW_ANONYMOUS is off",
            f"{page}: switch off Allow anonymous sign-ins",
        )
    return say.ok("closed" if told.get("disable_signup") else "open, addresses are confirmed")


def api(target: Target) -> Finding:
    """The API is there, and is this version."""
    say = Reporter("api")
    url = target.values["API_URL"].rstrip("/")
    answer = target.get(f"{url}/health")
    if not answer.is_success:
        return say.fail(f"{url}/health answers {answer.status_code}", "see its log")
    running, here = answer.json().get("version"), VERSION
    if running not in {here, "$LATEST"}:
        return say.warn(f"it runs {running}, this checkout is {here}", "minutehand deploy <stage>")
    return say.ok(f"alive, {running}")


def accepts(target: Target) -> Finding:
    """The API takes the same tokens that Auth gives."""
    say = Reporter("api-sign-in")
    try:
        target.person.call("GET", "/api/jobs", params={"limit": 1})
    except CommandFailed as failed:
        if failed.code == "not_signed_in":
            return say.skip("no user to sign in as")
        return say.fail(
            f"the API refuses a fresh token: {failed}",
            "give the API the same SUPABASE_URL and JWT secret, then start it again",
        )
    return say.ok("a fresh token is accepted")


def tick_token(target: Target) -> Finding:
    """The token here is the token there."""
    say = Reporter("worker-token")
    url = target.values["API_URL"].rstrip("/")
    token = target.values["WORKER_SECRET_TOKEN"].split(",")[0].strip()
    answer = target.get(f"{url}/api/jobs/worker", headers={"authorization": f"Bearer {token}"})
    if answer.status_code == 401:
        return say.fail(
            "the worker refuses WORKER_SECRET_TOKEN",
            "minutehand deploy <stage> --secrets-only, or correct it here",
        )
    if not answer.is_success:
        return say.fail(f"the worker answers {answer.status_code}", "see its log")
    return say.ok("accepted")


def worker_key(target: Target) -> Finding:
    """The worker gets in, with no more rights than it needs."""
    say = Reporter("worker-key")
    fix = "minutehand token worker --signing-key key.json, as SUPABASE_WORKER_KEY"
    health = asked_health(target)
    if isinstance(health, str):
        return say.fail(health, fix)
    key = target.values.get("SUPABASE_WORKER_KEY")
    if key and role_of(key) != WORKER_ROLE:
        return say.warn(f"its role is {role_of(key)}: more rights than needed", fix)
    days = days_left(key, datetime.now(UTC))
    if days is not None and days < KEY_WARN_DAYS:
        return say.warn(
            f"it expires in {days:.0f} days, and every worker is refused then",
            "minutehand rotate --only key --secrets secrets.env --signing-key key.json",
        )
    if not key and not target.values.get("SUPABASE_JWT_SECRET"):
        return say.warn("it signs in with a secret key: more rights than needed", fix)
    return say.ok(f"signs in as {WORKER_ROLE}")


def asked_health(target: Target) -> Mapping[str, Any] | str:
    """`queue_health` by the worker's own key, or why it was refused."""

    async def ask() -> Mapping[str, Any]:
        queue = WorkerQueue(Settings.from_env(target.values))
        try:
            return (await queue.health()).model_dump(mode="json")
        finally:
            await queue.aclose()

    try:
        return asyncio.run(ask())
    except ConfigurationError as error:
        return str(error).split(". Example")[0]
    except QueueError as error:
        return f"the Data API refuses the worker's key: {error}"


def schedule_alive(target: Target) -> Finding:
    """Someone ticks."""
    say = Reporter("schedule")
    health = asked_health(target)
    if isinstance(health, str):
        return say.skip("the worker's key is refused, see worker-key")
    seconds = health.get("last_tick_seconds")
    wake = (
        "start the stack: make run"
        if target.is_local
        else "aws scheduler get-schedule must say ENABLED; then minutehand deploy <stage>"
    )
    if seconds is None:
        return say.fail("no tick was ever seen", wake)
    if seconds > TICK_SECONDS:
        return say.fail(f"the last tick was {seconds:.0f} s ago", wake)
    oldest = health.get("oldest_due_seconds")
    if oldest is not None and oldest > TICK_SECONDS:
        return say.warn(
            f"ticks run, but a due job has waited for {oldest:.0f} s", "minutehand stats --all"
        )
    return say.ok(f"last tick {seconds:.0f} s ago")


def messages(target: Target) -> Finding:
    """What is sent to Realtime stays within the plan, and little is held back."""
    say = Reporter("messages")
    health = asked_health(target)
    if isinstance(health, str):
        return say.skip("the worker's key is refused, see worker-key")
    numbers = health.get("messages")
    if not numbers:
        return say.skip("the database is older than this command")
    told = messages_line(numbers)
    if numbers["held_last_hour"] > MOST_HELD * max(1, numbers["last_hour"]):
        return say.warn(
            told,
            "set live='states' on job types that no one watches job by job, or raise the setting "
            "realtime_messages_per_second with the plan",
        )
    return say.ok(told)


def maintenance(target: Target) -> Finding:
    """Nothing of the database's own upkeep fails again and again."""
    say = Reporter("maintenance")
    health = asked_health(target)
    if isinstance(health, str):
        return say.skip("the worker's key is refused, see worker-key")
    parked = health.get("parked_items") or []
    failing = [task for task in health.get("failing_maintenance") or [] if task["failures"] > 0]
    if failing:
        told = f"{failing[0]['name']} fails: {failing[0]['failure']}"
        return say.warn(told, "correct what it names; it is retried automatically")
    if parked:
        told = f"{parked[0]['task']} {parked[0]['item']} is parked: {parked[0]['failure']}"
        return say.warn(told, "correct what it names; it is retried automatically")
    return say.ok("nothing is parked")


def readiness(target: Target) -> Finding:
    """What the service says of itself."""
    say = Reporter("ready")
    url = target.values["API_URL"].rstrip("/")
    body = target.get(f"{url}/api/health/ready").json()
    bad = {
        name: check["detail"]
        for name, check in body.get("checks", {}).items()
        if check["verdict"] == "fail"
    }
    if bad:
        told = "; ".join(f"{name}: {detail}" for name, detail in bad.items())
        return say.fail(told, "the checks above name the cause")
    return say.ok(str(body.get("status")))


CHECKS = (
    Check("supabase", supabase, needs=SUPABASE),
    Check("exposed-schemas", exposed_schemas, needs=SUPABASE),
    Check("clock-skew", clock_skew, needs=SUPABASE),
    Check("jwt-algorithm", jwt_algorithm, needs=SUPABASE),
    Check("sign-in", sign_in, needs=SUPABASE),
    Check("sign-up", sign_up, needs=SUPABASE),
    Check("worker-key", worker_key, needs=SUPABASE, held_by_aws=True),
    Check("schedule", schedule_alive, needs=SUPABASE, held_by_aws=True),
    Check("messages", messages, needs=SUPABASE, held_by_aws=True),
    Check("maintenance", maintenance, needs=SUPABASE, held_by_aws=True),
    Check("api", api, needs=("API_URL",)),
    Check("api-sign-in", accepts, needs=SIGN_IN),
    Check("worker-token", tick_token, needs=("API_URL", "WORKER_SECRET_TOKEN")),
    Check("ready", readiness, needs=("API_URL",)),
)
