"""The faults that stop people, each with its cause and the one line that mends it."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt

from minutehand.app import find_apps
from minutehand.cli.doctor.findings import Finding, Target, check, fail, ok, skip, warn
from minutehand.cli.stage import aws_refusals
from minutehand.cli.supabase_cli import HOSTED
from minutehand.config import ConfigurationError, Settings
from minutehand.deploy.parameters import NEEDED, missing_for, parameter_name
from minutehand.install.catalog import find_differences, recorded_facts
from minutehand.install.sources import ordinal
from minutehand.local.migrations import find_applied, version_of
from minutehand.project import Project
from minutehand.queue.address import ask
from minutehand.queue.data_api import profile_headers
from minutehand.queue.keys import KEY_WARN_DAYS, WORKER_ROLE, WorkerKey, days_left
from minutehand.terminal.connection import CommandFailed
from minutehand.version import VERSION

DASHBOARD = re.compile(r"https://(?:app\.)?supabase\.com/dashboard/project/([a-z]+)")
# A fix begins with what is pasted as it is, into the settings, a terminal or the SQL editor; what
# else is to say is a comment there, and … marks a value that only its reader has.
API = "API_URL=https://…  # which `minutehand deploy` prints, or the local one of .local/env"
PUBLISHABLE = "SUPABASE_PUBLISHABLE_KEY=sb_publishable_…  # of Project settings → API keys"
NEW_KEY = "minutehand token worker --signing-key key.json  # as SUPABASE_WORKER_KEY"
OWN_KEY = "minutehand token worker  # as SUPABASE_WORKER_KEY"
LEGACY_SECRET = "SUPABASE_JWT_SECRET=…  # of Project settings → JWT keys"
SAVE_SECRET = "made just now; `minutehand deploy STAGE --secrets-only` gives it to the functions"


#: By the name of the check.
QUERIES = dict(
    part.split("\n", 1)
    for part in Path(__file__).with_name("database.sql").read_text("utf-8").split("-- check ")[1:]
)


@check("aws", staged=True)
def aws(target: Target) -> Finding:
    """A stage's values are ones that AWS and the functions take, and no secret is missing."""
    stage = target.stage
    if stage is None:
        return fail("only a deployed stage has AWS settings", "name it: --stage prod")
    stage.check()
    for function in NEEDED:
        if missing := missing_for(function, stage.secrets_of(function)):
            return fail(
                f"{parameter_name(stage.service, stage.name, function)} lacks {', '.join(missing)}",
                f"minutehand deploy {stage.name} --secrets-only",
            )
    return ok()


@check("settings")
def settings(target: Target) -> Finding:
    """Everything the service reads parses, no address is another's, and no secret is public."""
    values = target.values
    read = Settings.from_env(values)
    try:
        for app in find_apps(read.apps):
            app.has("processors")
    except ConfigurationError as error:
        own = ",".join(Project.find().apps) or error.example
        return fail(f"{error.variable} {error.problem}", f"{error.variable}={own}")
    if page := DASHBOARD.match(values["SUPABASE_URL"]):
        address = f"SUPABASE_URL=https://{page[1]}.supabase.co"
        return fail("SUPABASE_URL is the dashboard's address", address)
    if HOSTED.match(values.get("API_URL", "")):
        return fail("API_URL is Supabase's address, not the API's", API)
    key = values["SUPABASE_PUBLISHABLE_KEY"]
    if key.startswith("sb_secret_") or _role_of(key) == "service_role":
        return fail("SUPABASE_PUBLISHABLE_KEY is a secret key: browsers would get it", PUBLISHABLE)
    if not read.worker_secret_tokens:
        return fail(
            "WORKER_SECRET_TOKEN is not set: no schedule may tick",
            f"WORKER_SECRET_TOKEN={secrets.token_urlsafe(32)}  # {SAVE_SECRET}",
        )
    if {*read.worker_secret_tokens} & {*read.background_job_tokens}:
        return fail(
            "WORKER_SECRET_TOKEN and BACKGROUND_JOB_TOKEN are equal",
            f"BACKGROUND_JOB_TOKEN={secrets.token_urlsafe(32)}  # {SAVE_SECRET}",
        )
    if wrong := [one for one in read.cors_origins if origin_of(one) != one]:
        right = ",".join(dict.fromkeys(map(origin_of, read.cors_origins)))
        return fail(f"CORS_ORIGINS: no browser sends {wrong[0]}", f"CORS_ORIGINS={right}")
    if read.stage != "local" and values["SUPABASE_URL"].startswith("http://"):
        return fail("SUPABASE_URL is not encrypted", "SUPABASE_URL=https://…")
    return ok()


@check("processors", "settings")
def processors(target: Target) -> Finding:
    """Each module of processors can be imported, and no two have one job type."""
    broken: list[tuple[str, Exception]] = []
    for app in find_apps(Settings.from_env(target.values).apps):
        try:
            app.module("processors", lambda name, error: broken.append((name, error)))
        except Exception as error:  # of the package that holds them
            broken.append((f"{app.package}.processors", error))
    if not broken:
        return ok()
    report = [f"{name} cannot be imported: {type(e).__name__}: {e}" for name, e in broken]
    return fail("; ".join(report), ";\n        ".join(_import_fix(*each) for each in broken))


def _import_fix(name: str, error: Exception) -> str:
    """What installs a missing package, or shows where the module fails."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"pip install {error.name.partition('.')[0]}  # or correct the name in {name}"
    return f"python -c 'import {name}'  # shows where; no worker but that of `dev` starts with it"


def origin_of(address: str) -> str:
    """What a browser sends of an address: no path, a host in lower case, no usual port."""
    if address == "*":
        return address
    parts = urlsplit(address if "://" in address else f"https://{address}")
    usual = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(usual)}"


def _role_of(key: str) -> str | None:
    """The role a key carries, unverified; None when it is not a JWT."""
    try:
        role: str | None = jwt.decode(key, options={"verify_signature": False}).get("role")
    except jwt.PyJWTError:
        return None
    return role


@check("database", "settings")
def database(target: Target) -> Finding:
    """It is there, lets its owner in, and is the one that the schema was installed in."""
    ours = "select pronamespace::regnamespace::text from pg_proc where proname = 'lease_jobs'"
    schemas, wanted = [name for (name,) in target.ask(ours)], target.schemas.clients
    if schemas and wanted not in schemas:
        return fail(f"its schema is {schemas[0]}, not {wanted}", f"MINUTEHAND_SCHEMA={schemas[0]}")
    if not schemas:
        other = "DATABASE_URL=…  # of the project that has it; where this is it: "
        return fail("it has no schema of ours", f"{other}{target.migrate}")
    return ok()


@check("sessions", "database")
def sessions(target: Target) -> Finding:
    """Each connection has a session of its own, in which a worker can listen and take its role."""
    address = asyncio.run(ask(target.person.need("DATABASE_URL")))
    if address.lacks is not None:
        return fail(f"DATABASE_URL {address.lacks}", f"DATABASE_URL=…  # of {address.fix}")
    if not address.notifications:
        return warn(
            "DATABASE_URL passes no notifications on: workers look each second",
            "DATABASE_URL=…  # of a direct connection, or the primary in place of a standby",
        )
    return ok()


@check("migrations", "database")
def migrations(target: Target) -> Finding:
    """Every file is applied, and nothing else."""
    rows = target.ask("select version from supabase_migrations.schema_migrations")
    applied = {version for (version,) in rows}
    files = {version_of(each) for each in find_applied(Project.find(), applied)}
    if missing := sorted(files - applied):
        return fail(f"{len(missing)} not applied, the first is {missing[0]}", target.migrate)
    if unknown := sorted(applied - files):
        return fail(f"the database is ahead: {unknown[0]} is not here", "git pull, deploy again")
    return ok(f"{len(files)} applied")


def _compare(query: str, target: Target) -> Finding:
    return next((Finding(*row) for row in target.ask(query)), ok())


# an owner's rights look like grants, so that another owner comes before what was granted
check("roles", "migrations")(partial(_compare, QUERIES["roles"]))


@check("engine", "roles")
def engine(target: Target) -> Finding:
    """Functions, grants, policies, indexes and triggers are what the release left."""
    made = target.ask("select 1 where to_regprocedure('queue.version()') is not null")
    [(version,)] = target.ask("select queue.version()") if made else [("0.3.0",)]
    if version != VERSION:
        return fail(
            f"it is of {version}, and this command of {VERSION}",
            f"minutehand upgrade  # then {target.migrate}"
            if ordinal(version) < ordinal(VERSION)
            else f'pip install "minutehand=={version}"',
        )
    if (recorded := recorded_facts(target.schemas, target.apps)) is None:
        return skip("this copy of the source has no record to compare with: make dist")
    with target.connect() as owner:
        found = find_differences(owner, target.schemas, recorded)
    if not found:
        return ok("as it was released")
    more = f"; and {len(found) - 5} more, run this again" if len(found) > 5 else ""
    details = "; ".join(each.detail for each in found[:5])
    return fail(details + more, ";\n        ".join(each.fix for each in found[:5]) + ";")


@check("queue", "migrations")
def queue(target: Target) -> Finding:
    """What the database itself says is wrong, of everything; that no worker runs is below."""
    [(explained,)] = target.ask("select public.explain_queue()")
    found = [each for each in explained["findings"] if each["reason"] != "no_worker"]
    return said(found) if found else ok("nothing waits that should not")


def said(found: list[dict[str, Any]]) -> Finding:
    """Findings of the database in its own words: what is wrong, and the first step for each."""
    words = [each[name] for each in found for name in ("sentence", "cause") if each[name]]
    lines = [as_fix(step) for each in found for step in each["next"][:1]]
    return Finding(found[0]["verdict"], " ".join(words), "\n        ".join(dict.fromkeys(lines)))


def as_fix(step: dict[str, Any]) -> str:
    """A step's command with its words behind it; its words where the command is this one."""
    command = str(step.get("command") or "")
    if not command or command.startswith("minutehand doctor"):
        return str(step["words"])
    return f"{command}  # {step['words']}"


for name in ("project", "extensions", "wake-up", "publication"):
    check(name, "migrations")(partial(_compare, QUERIES[name]))


@check("supabase", "settings", "database")
def supabase(target: Target) -> Finding:
    """The URL answers, takes the key, and exposes what it should."""
    url, schemas = target.person.need("SUPABASE_URL"), target.schemas
    key = {"apikey": target.person.need("SUPABASE_PUBLISHABLE_KEY")}

    def data(table: str, schema: str) -> httpx.Response:
        headers = {**key, **profile_headers(schema)}
        return target.call("GET", "SUPABASE_URL", f"/rest/v1/{table}?limit=1", headers=headers)

    answer = data("jobs", schemas.clients)
    if "PGRST106" in answer.text:
        return fail(
            f"the Data API does not expose the schema {schemas.clients}",
            f"add {schemas.clients} under Project settings → Data API → Exposed schemas;"
            " for a branch or `supabase start`, to `[api] schemas` of supabase/config.toml",
        )
    if answer.status_code == 401 and "key" in answer.text.lower():  # else anon may not read jobs
        return fail("SUPABASE_PUBLISHABLE_KEY is refused", PUBLISHABLE)
    if answer.status_code == 404:
        return fail(
            f"{url} has no table jobs",
            f"SUPABASE_URL=https://…  # of this database's project; where it is: {target.migrate}",
        )
    if answer.status_code >= 500:
        return fail(
            f"{url} answers {answer.status_code}: is the project paused, or its ref misspelt?",
            "SUPABASE_URL=https://…  # as its dashboard says, where a paused project is restored",
        )
    if data("job_types", schemas.engine).is_success:
        return fail(
            f"the schema {schemas.engine} is exposed",
            f"Project settings → Data API: expose {schemas.clients} and yours only",
        )
    return ok(f"{url} answers, and exposes {schemas.clients}")


@check("clock", "supabase")
def clock(target: Target) -> Finding:
    """Tokens are checked by clocks."""
    before = time.time()
    answer = target.call("GET", "SUPABASE_URL", "/auth/v1/health")
    if not (date := answer.headers.get("date")):
        return ok("no other to compare with")
    # The header names a whole second that has begun; its middle is off by half of one at most.
    skew = parsedate_to_datetime(date).timestamp() + 0.5 - (before + time.time()) / 2
    if abs(skew) > 5.0:
        return fail(
            f"this machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead'}",
            "timedatectl set-ntp true  # switches time synchronisation on",
        )
    return ok(f"{abs(skew):.1f} s")


@check("api", "settings")
def api(target: Target) -> Finding:
    """The API is there."""
    answer = target.call("GET", "API_URL", "/health")
    if not answer.is_success:
        return fail(f"{answer.url} answers {answer.status_code}: the API says why in its log", API)
    return ok(f"alive, {answer.json().get('version')}")


@check("worker-key", "supabase", "migrations", "engine")
def worker_key(target: Target) -> Finding:
    """The worker gets in, with no more rights than it needs."""
    _health(target)
    key, new = target.values.get("SUPABASE_WORKER_KEY"), new_key(target)
    if key and _role_of(key) != WORKER_ROLE:
        return warn(f"its role is {_role_of(key)}: more rights than needed", new)
    days = days_left(key, datetime.now(UTC))
    if days is not None and days < KEY_WARN_DAYS:
        return warn(f"it expires in {days:.0f} days, and every worker is refused then", new)
    if not key and not target.values.get("SUPABASE_JWT_SECRET"):
        return warn("it signs in with a secret key: more rights than needed", new)
    return ok(f"signs in as {WORKER_ROLE}")


def new_key(target: Target) -> str:
    """How a worker's key is made: by the legacy secret where there is one."""
    return OWN_KEY if target.values.get("SUPABASE_JWT_SECRET") else NEW_KEY


def _health(target: Target) -> dict[str, Any]:
    """`queue_health` by the worker's own key."""
    key = WorkerKey(Settings.from_env(target.values)).headers()
    headers = {**key, **profile_headers(target.schemas.clients)}
    path = "/rest/v1/rpc/queue_health"
    answer = target.call("POST", "SUPABASE_URL", path, headers=headers, json={})
    if not answer.is_success:
        fix = new_key(target) if target.values.get("SUPABASE_WORKER_KEY") else LEGACY_SECRET
        raise CommandFailed(f"the worker is refused: {answer.text[:200]}", fix=fix)
    return dict(answer.json())


@check("schedule", "worker-key")
def schedule(target: Target) -> Finding:
    """Someone ticks."""
    health = _health(target)
    found = [each for each in health["findings"] if each["reason"] == "no_worker"]
    if not found:
        return ok(f"last tick {health['last_tick_seconds']:.0f} s ago")
    if target.stage is None:
        return said(found)
    detail = said(found).detail
    client, stack = target.stage.client("scheduler"), target.stage.stack
    with aws_refusals(target.stage.region):
        state = client.get_schedule(Name=f"{stack}-tick")["State"]
    if state == "ENABLED":
        return fail(detail, f"aws logs tail {stack} --since 10m")
    return fail(  # a deploy alone does not undo manual changes
        f"{detail}: the schedule is disabled",
        "enable it in EventBridge → Scheduler, and `tickState: ENABLED` in the file of stages",
    )
