"""Supabase and the service from outside: keys, tokens, clocks, functions, the tick."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import jwt

from minutehand.cli.doctor.findings import Checks, Finding, Skipped, Target, fail, ok, skip, warn
from minutehand.cli.doctor.settings import key_id, role_of
from minutehand.cli.queues import messages_line
from minutehand.cli.supabase_cli import how_to_migrate
from minutehand.config import ConfigurationError, Settings
from minutehand.queue.errors import QueueError, TokenRefused
from minutehand.queue.keys import KEY_WARN_DAYS, WORKER_ROLE, days_left
from minutehand.queue.worker_client import WorkerQueue
from minutehand.terminal.connection import CommandFailed
from minutehand.version import VERSION

SUPABASE = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY")
SIGN_IN = (*SUPABASE, "API_URL")
CHECKS = Checks()
#: What the service needs to start at all; what is asked as the worker.
START, WORKER = ("supabase",), ("worker-key",)
SKEW_SECONDS = 5.0
TICK_SECONDS = 180.0
#: Share of messages held back in an hour that is worth a word.
MOST_HELD = 0.2
#: Of Supabase's gateway, for a project that sleeps; some time later its name has no address.
PAUSED_STATUS = 540
PAUSED = "the project is paused, or its ref is misspelt"
ASYMMETRIC = {"ES256", "RS256"}


def restore(ref: str) -> str:
    """How a paused project is woken."""
    return f"restore it at https://supabase.com/dashboard/project/{ref}, or correct SUPABASE_URL"


@CHECKS.add("supabase", needs=SUPABASE, after=("settings", "publishable-key"))
def supabase(target: Target) -> Finding:
    """The URL answers and takes the key."""
    url = target.values["SUPABASE_URL"].rstrip("/")
    answer = target.data("jobs?select=id&limit=1", target.schemas.clients)
    if "PGRST106" in answer.text:
        return fail(
            f"the Data API does not expose the schema {target.schemas.clients}",
            f"add {target.schemas.clients} under Project settings → Data API → Exposed schemas;"
            " for a branch or `supabase start`, to `[api] schemas` of supabase/config.toml",
        )
    if answer.status_code == 404:
        return fail(
            f"{url} has no table jobs",
            f"{how_to_migrate(url, target.stage)}; or correct SUPABASE_URL",
        )
    if answer.status_code == 401 and "api" in answer.text.lower() and "key" in answer.text.lower():
        return fail(
            "SUPABASE_PUBLISHABLE_KEY is refused", "copy it again from Project settings → API keys"
        )
    if answer.status_code == PAUSED_STATUS:
        return fail(f"{url}: {PAUSED}", restore(urlsplit(url).netloc.partition(".")[0]))
    if answer.status_code >= 500:
        return fail(f"{url} answers {answer.status_code}", "see Supabase's status page")
    return ok(f"{url} answers")


@CHECKS.add("exposed-schemas", needs=SUPABASE, after=START)
def exposed_schemas(target: Target) -> Finding:
    """The engine is not in the Data API's list."""
    answer = target.data("job_types?select=job_type&limit=1", target.schemas.engine)
    if answer.is_success:
        return fail(
            f"the schema {target.schemas.engine} is exposed",
            f"Project settings → Data API: expose {target.schemas.clients} and yours only",
        )
    return ok(f"{target.schemas.engine} is not exposed")


@CHECKS.add("clock-skew", needs=SUPABASE, after=(*START, "postgres"))
def clock_skew(target: Target) -> Finding:
    """Tokens are judged by clocks."""
    before = time.time()
    answer = target.get("SUPABASE_URL", "/auth/v1/health")
    if target.values.get("DATABASE_URL"):
        before = time.time()
        [(there,)] = target.ask("select extract(epoch from clock_timestamp())::float8")
        skew = there - (before + time.time()) / 2
    elif answer.headers.get("date"):
        # The header names a whole second that has begun; its middle is off by half of one at most.
        there = parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5
        skew = there - (before + time.time()) / 2
    else:
        return skip("no clock to compare with")
    if abs(skew) > SKEW_SECONDS:
        return fail(
            f"this machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead'}",
            "switch on time synchronisation: timedatectl set-ntp true",
        )
    return ok(f"{abs(skew):.1f} s")


@CHECKS.add("jwt-algorithm", needs=SUPABASE, after=START)
def jwt_algorithm(target: Target) -> Finding:
    """Keys that can be rotated and published, rather than one shared secret."""
    answer = target.get("SUPABASE_URL", "/auth/v1/.well-known/jwks.json")
    keys = answer.json().get("keys", []) if answer.is_success else []
    found = sorted({str(key.get("alg")) for key in keys} & ASYMMETRIC)
    secret = target.values.get("SUPABASE_JWT_SECRET")
    if found:
        return ok(f"{', '.join(found)} published")
    if not secret:
        return fail(
            "no signing key is published and SUPABASE_JWT_SECRET is not set: every user is refused",
            "Project settings → JWT keys: make an ES256 key current",
        )
    if target.is_local:
        return ok("HS256 by a shared secret, as the local stack has it")
    return warn(
        "tokens are signed by a shared secret (HS256)",
        "Project settings → JWT keys: make an ES256 key current",
    )


@CHECKS.add("jwt-secret", needs=(*SUPABASE, "SUPABASE_JWT_SECRET"), after=START)
def jwt_secret(target: Target) -> Finding:
    """The Data API takes what SUPABASE_JWT_SECRET signs."""
    until = int(time.time()) + 60
    secret = target.values["SUPABASE_JWT_SECRET"]
    bearer = f"Bearer {jwt.encode({'role': 'anon', 'exp': until}, secret, 'HS256')}"
    answer = target.data("jobs?select=id&limit=1", target.schemas.clients, authorization=bearer)
    if "PGRST301" in answer.text:
        return fail(
            "the Data API refuses what SUPABASE_JWT_SECRET signs",
            "copy the JWT secret again from Project settings → JWT keys, or remove it where the"
            " project signs by keys",
        )
    return ok("signs what the Data API takes")


@CHECKS.add("sign-in", needs=SUPABASE, after=(*START, "jwt-algorithm", "jwt-secret"))
def sign_in(target: Target) -> Finding:
    """A person's token passes our own verification."""
    try:
        token = target.person.token
    except CommandFailed as failed:
        if failed.code == "not_signed_in":
            return skip("no MINUTEHAND_EMAIL and MINUTEHAND_PASSWORD")
        return fail(str(failed), failed.fix or "check e-mail and password")
    header = jwt.get_unverified_header(token)
    worker_key = target.values.get("SUPABASE_WORKER_KEY")
    if (kid := header.get("kid")) and kid == key_id(worker_key or ""):
        return fail(
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
            return fail(
                f"Auth's tokens do not verify with SUPABASE_JWT_SECRET ({error})",
                "copy the JWT secret again from Project settings → JWT keys",
            )
    claims = jwt.decode(token, options={"verify_signature": False})
    lifetime = claims["exp"] - claims["iat"]
    if lifetime > 3600:
        return warn(
            f"access tokens live {lifetime} s: a removed member keeps access as long",
            "Authentication → Sessions: 3600 s or less",
        )
    return ok(f"tokens verify and live {lifetime} s")


@CHECKS.add("sign-up", needs=SUPABASE, after=START)
def sign_up(target: Target) -> Finding:
    """An address is its owner's before anything is given to it."""
    key = target.values["SUPABASE_PUBLISHABLE_KEY"]
    answer = target.get("SUPABASE_URL", "/auth/v1/settings", apikey=key)
    if not answer.is_success:
        return skip(f"Auth answers {answer.status_code}, see supabase")
    told = answer.json()
    if target.is_local:
        return ok("open, as the local stack has it")
    page = "Authentication → Sign in / Providers"
    if told.get("mailer_autoconfirm") and told.get("external", {}).get("email"):
        return fail(
            "addresses are not confirmed: anyone can sign up with another's address",
            f"{page} → Email: switch on Confirm email",
        )
    allowed = target.values.get("ALLOW_ANONYMOUS", "").lower() in {"1", "true", "yes", "on"}
    if told.get("external", {}).get("anonymous_users") and not allowed:
        return warn(
            "anonymous sign-ins are on, and ALLOW_ANONYMOUS is off",
            f"{page}: switch off Allow anonymous sign-ins",
        )
    return ok("closed" if told.get("disable_signup") else "open, addresses are confirmed")


@CHECKS.add("api", needs=("API_URL",), after=("settings",))
def api(target: Target) -> Finding:
    """The API is there, and is this version."""
    answer = target.get("API_URL", "/health")
    if not answer.is_success:
        return fail(f"{answer.url} answers {answer.status_code}", "see its log")
    running, here = answer.json().get("version"), VERSION
    if running not in {here, "$LATEST"}:
        return warn(f"it runs {running}, this checkout is {here}", "minutehand deploy <stage>")
    return ok(f"alive, {running}")


@CHECKS.add("api-sign-in", needs=SIGN_IN, after=("api", "sign-in"))
def accepts(target: Target) -> Finding:
    """The API takes the same tokens that Auth gives."""
    try:
        target.person.call("GET", "/api/jobs", params={"limit": 1})
    except CommandFailed as failed:
        if failed.code == "not_signed_in":
            return skip("no user to sign in as")
        return fail(
            f"the API refuses a fresh token: {failed}",
            "give the API the same SUPABASE_URL and JWT secret, then start it again",
        )
    return ok("a fresh token is accepted")


@CHECKS.add("worker-token", needs=("API_URL", "WORKER_SECRET_TOKEN"), after=("api", "tokens"))
def tick_token(target: Target) -> Finding:
    """The token here is the token there."""
    token = target.values["WORKER_SECRET_TOKEN"].split(",")[0].strip()
    answer = target.get("API_URL", "/api/jobs/worker", authorization=f"Bearer {token}")
    if answer.status_code == 401:
        return fail(
            "the worker refuses WORKER_SECRET_TOKEN",
            "minutehand deploy <stage> --secrets-only, or correct it here",
        )
    if not answer.is_success:
        return fail(f"the worker answers {answer.status_code}", "see its log")
    return ok("accepted")


@CHECKS.add(
    "worker-key", needs=SUPABASE, after=(*START, "migrations", "jwt-secret"), held_by_aws=True
)
def worker_key(target: Target) -> Finding:
    """The worker gets in, with no more rights than it needs."""
    fix = "minutehand token worker --signing-key key.json, as SUPABASE_WORKER_KEY"
    key = target.values.get("SUPABASE_WORKER_KEY")
    health = asked_health(target)
    if isinstance(health, str):
        by_secret_key = not key and not target.values.get("SUPABASE_JWT_SECRET")
        again = "copy SUPABASE_SECRET_KEY again from Project settings → API keys"
        has_one = by_secret_key and target.values.get("SUPABASE_SECRET_KEY")
        return fail(health, again if has_one else fix)
    if key and role_of(key) != WORKER_ROLE:
        return warn(f"its role is {role_of(key)}: more rights than needed", fix)
    days = days_left(key, datetime.now(UTC))
    if days is not None and days < KEY_WARN_DAYS:
        return warn(
            f"it expires in {days:.0f} days, and every worker is refused then",
            "minutehand rotate --only key --secrets secrets.env --signing-key key.json",
        )
    if not key and not target.values.get("SUPABASE_JWT_SECRET"):
        return warn("it signs in with a secret key: more rights than needed", fix)
    return ok(f"signs in as {WORKER_ROLE}")


def health_of(target: Target) -> Mapping[str, Any]:
    """What the queue says to the worker; there is nothing to check where it says nothing."""
    health = asked_health(target)
    if isinstance(health, str):
        raise Skipped("the worker is refused, see worker-key")
    return health


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
    except TokenRefused as error:
        return f"the Data API refuses the worker's key: {error}"
    except QueueError as error:
        return f"the queue does not answer the worker: {error}"


@CHECKS.add("schedule", needs=SUPABASE, after=WORKER, held_by_aws=True)
def schedule_alive(target: Target) -> Finding:
    """Someone ticks."""
    seconds = health_of(target).get("last_tick_seconds")
    wake = (
        "start the stack: make run"
        if target.is_local
        else "aws scheduler get-schedule must say ENABLED; then minutehand deploy <stage>"
    )
    if seconds is None:
        return fail("no tick was ever seen", wake)
    if seconds > TICK_SECONDS:
        return fail(f"the last tick was {seconds:.0f} s ago", wake)
    return ok(f"last tick {seconds:.0f} s ago")


@CHECKS.add("backlog", needs=SUPABASE, after=WORKER, held_by_aws=True)
def backlog(target: Target) -> Finding:
    """What is due starts."""
    told = health_of(target)["backlog"]
    if told["verdict"] == "pass":
        return ok(told["detail"])
    finding = fail if told["verdict"] == "fail" else warn
    return finding(told["detail"], told["fix"] or "minutehand stats --all")


@CHECKS.add("messages", needs=SUPABASE, after=WORKER, held_by_aws=True)
def messages(target: Target) -> Finding:
    """What is sent to Realtime stays within the plan, and little is held back."""
    numbers = health_of(target).get("messages")
    if not numbers:
        return skip("the database is older than this command")
    told = messages_line(numbers)
    if numbers["held_last_hour"] > MOST_HELD * max(1, numbers["last_hour"]):
        return warn(
            told,
            "set live='states' on job types that no one watches job by job, or raise the setting "
            "realtime_messages_per_second with the plan",
        )
    return ok(told)


@CHECKS.add("maintenance", needs=SUPABASE, after=WORKER, held_by_aws=True)
def maintenance(target: Target) -> Finding:
    """Nothing of the database's own upkeep fails again and again."""
    health = health_of(target)
    parked = health.get("parked_items") or []
    failing = [task for task in health.get("failing_maintenance") or [] if task["failures"] > 0]
    if failing:
        told = f"{failing[0]['name']} fails: {failing[0]['failure']}"
    elif parked:
        told = f"{parked[0]['task']} {parked[0]['item']} is parked: {parked[0]['failure']}"
    else:
        return ok("nothing is parked")
    return warn(told, "correct what it names; it is retried automatically")


@CHECKS.add("ready", needs=("API_URL",), after=("api",))
def readiness(target: Target) -> Finding:
    """What the service says of itself."""
    body = target.get("API_URL", "/api/health/ready").json()
    for verdict, finding in (("fail", fail), ("warn", warn)):
        bad = [
            f"{name}: {check['detail']}"
            for name, check in body.get("checks", {}).items()
            if check["verdict"] == verdict
        ]
        if bad:
            return finding("; ".join(bad), "the checks above name the cause")
    return ok(str(body.get("status")))
