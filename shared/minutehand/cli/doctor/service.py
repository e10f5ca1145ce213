"""Supabase and the service from outside: keys, tokens, clocks, functions, the tick."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from minutehand.cli.doctor.findings import Checks, Finding, Target, fail, ok, skip, warn
from minutehand.cli.doctor.settings import role_of
from minutehand.cli.supabase_cli import how_to_migrate
from minutehand.config import ConfigurationError, Settings
from minutehand.queue.errors import QueueError, TokenRefused
from minutehand.queue.keys import KEY_WARN_DAYS, WORKER_ROLE, days_left
from minutehand.queue.worker_client import WorkerQueue
from minutehand.version import VERSION

SUPABASE = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY")
CHECKS = Checks()
#: What the service needs to start at all; what is asked as the worker.
START, WORKER = ("supabase",), ("worker-key",)
SKEW_SECONDS = 5.0
TICK_SECONDS = 180.0
#: Of Supabase's gateway, for a project that sleeps; some time later its name has no address.
PAUSED_STATUS = 540
PAUSED = "the project is paused, or its ref is misspelt"


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


@CHECKS.add("clock-skew", needs=SUPABASE, after=START)
def clock_skew(target: Target) -> Finding:
    """Tokens are judged by clocks."""
    before = time.time()
    answer = target.get("SUPABASE_URL", "/auth/v1/health")
    if not answer.headers.get("date"):
        return skip("no clock to compare with")
    # The header names a whole second that has begun; its middle is off by half of one at most.
    there = parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5
    skew = there - (before + time.time()) / 2
    if abs(skew) > SKEW_SECONDS:
        return fail(
            f"this machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead'}",
            "switch on time synchronisation: timedatectl set-ntp true",
        )
    return ok(f"{abs(skew):.1f} s")


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


@CHECKS.add("worker-key", needs=SUPABASE, after=(*START, "migrations"), held_by_aws=True)
def worker_key(target: Target) -> Finding:
    """The worker gets in, with no more rights than it needs."""
    fix = "minutehand token worker --signing-key key.json, as SUPABASE_WORKER_KEY"
    key = target.values.get("SUPABASE_WORKER_KEY")
    health = asked_health(target)
    if isinstance(health, str):
        return fail(health, fix)
    if key and role_of(key) != WORKER_ROLE:
        return warn(f"its role is {role_of(key)}: more rights than needed", fix)
    days = days_left(key, datetime.now(UTC))
    if days is not None and days < KEY_WARN_DAYS:
        return warn(
            f"it expires in {days:.0f} days, and every worker is refused then",
            "minutehand token worker --signing-key key.json; put it where SUPABASE_WORKER_KEY is",
        )
    if not key and not target.values.get("SUPABASE_JWT_SECRET"):
        return warn("it signs in with a secret key: more rights than needed", fix)
    return ok(f"signs in as {WORKER_ROLE}")


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
    health = asked_health(target)
    if isinstance(health, str):
        return skip("the worker is refused, see worker-key")
    seconds = health.get("last_tick_seconds")
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
