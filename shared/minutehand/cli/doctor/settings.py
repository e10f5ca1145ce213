"""The values themselves: present, well-formed, not mixed up, no development secret outside."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

import jwt

from minutehand.app import find_apps
from minutehand.cli.doctor.findings import Checks, Finding, Target, fail, ok, warn
from minutehand.cli.supabase_cli import HOSTED
from minutehand.config import ConfigurationError, Settings, read_list
from minutehand.deploy.service import needs_of
from minutehand.project import Project

DASHBOARD: Final = re.compile(r"https://(?:app\.)?supabase\.com/dashboard/project/([a-z]+)")
HOSTED_API: Final = "https://…, which `minutehand deploy` prints, or the local one of .local/env"
SHORTEST = 32
MAKE = "minutehand token secret"
CHECKS = Checks()
#: Without a stack there is one finding to make, and `settings` makes it.
STACK = ("SUPABASE_URL",)


@CHECKS.add("settings")
def settings(target: Target) -> Finding:
    """Everything the service reads parses."""
    if not target.values:
        return fail("no stack is known here", "minutehand dev, or name one: --env-file prod.env")
    try:
        Settings.from_env(target.values)
    except ConfigurationError as error:
        return fail(str(error).split(". Example")[0], f"set {error.variable}={error.example}")
    for name in ("SUPABASE_URL", "API_URL"):
        if page := DASHBOARD.match(target.values.get(name, "")):
            right = f"https://{page[1]}.supabase.co" if name == "SUPABASE_URL" else HOSTED_API
            return fail(f"{name} is the dashboard's address", f"{name}={right}")
    if HOSTED.match(target.values.get("API_URL", "")):
        return fail("API_URL is Supabase's address, not the API's", f"API_URL={HOSTED_API}")
    named, schema = target.values.get("MINUTEHAND_SCHEMA"), target.schemas.clients
    if named and named != schema:
        return fail(
            f"MINUTEHAND_SCHEMA is {named}, and the project in {target.root} has {schema}",
            f"MINUTEHAND_SCHEMA={schema}, or run this in the project's folder",
        )
    return ok("every variable parses")


@CHECKS.add("apps", needs=STACK)
def apps(target: Target) -> Finding:
    """The packages of processors can be imported."""
    project = Project.at(target.root)
    project.make_importable()
    named = read_list(target.values, "MINUTEHAND_APPS")
    for packages, right in (
        (named, f"MINUTEHAND_APPS={','.join(project.apps)}, or install what it names"),
        (project.apps, "correct apps in minutehand.toml, or install what it names"),
    ):
        try:
            found = [app.name for app in find_apps(packages) if app.folder]
        except ConfigurationError as error:
            return fail(str(error).split(". Example")[0], right)
    return ok(", ".join(found) or "none")


@CHECKS.add("publishable-key", needs=("SUPABASE_PUBLISHABLE_KEY",))
def publishable_key(target: Target) -> Finding:
    """What goes to browsers must be the key for browsers."""
    key = target.values["SUPABASE_PUBLISHABLE_KEY"]
    fix = "set SUPABASE_PUBLISHABLE_KEY to the sb_publishable_… key of Project settings → API keys"
    if key.startswith("sb_secret_") or role_of(key) == "service_role":
        return fail("SUPABASE_PUBLISHABLE_KEY is a secret key: browsers would get it", fix)
    if role_of(key) == "anon":
        return warn("SUPABASE_PUBLISHABLE_KEY is a legacy anon key", fix)
    if not key.startswith("sb_publishable_"):
        return fail("SUPABASE_PUBLISHABLE_KEY must be a publishable key", fix)
    return ok("a publishable key")


def role_of(key: str) -> str | None:
    """The role a legacy JWT key carries, unverified; None when it is not a JWT."""
    try:
        claims = jwt.decode(key, options={"verify_signature": False})
    except jwt.PyJWTError:
        return None
    role = claims.get("role")
    return str(role) if role else None


def key_id(token: str) -> str | None:
    """Which signing key a JWT names; None when it names none, or is not a JWT."""
    try:
        return jwt.get_unverified_header(token).get("kid")
    except jwt.PyJWTError:
        return None


@CHECKS.add("tokens", needs=STACK, held_by_aws=True)
def tokens(target: Target) -> Finding:
    """The tokens that start ticks: set, long, not the well-known ones, at most two of each."""
    for name in ("WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN"):
        values = read_list(target.values, name)
        if not values:
            return fail(f"{name} is not set: ticks by HTTP are refused", f"{name}=$({MAKE})")
        if target.is_local:
            continue
        if any(value.startswith("dev-") for value in values):
            return fail(f"{name} is the development one, which is public", f"{name}=$({MAKE})")
        if any(len(value) < SHORTEST for value in values):
            return fail(f"{name} is shorter than {SHORTEST} characters", f"{name}=$({MAKE})")
    return ok("set" if target.is_local else "set, long enough")


@CHECKS.add("tokens-differ", needs=("WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN"))
def same_tokens(target: Target) -> Finding:
    """Two functions, two keys."""
    worker = read_list(target.values, "WORKER_SECRET_TOKEN")
    if set(worker) & set(read_list(target.values, "BACKGROUND_JOB_TOKEN")):
        return warn(
            "WORKER_SECRET_TOKEN and BACKGROUND_JOB_TOKEN share a value",
            f"BACKGROUND_JOB_TOKEN=$({MAKE})",
        )
    return ok("they differ")


@CHECKS.add("cors", needs=STACK, held_by_aws=True)
def cors(target: Target) -> Finding:
    """Named origins, over TLS."""
    origins = read_list(target.values, "CORS_ORIGINS")
    if "*" in origins:
        return fail("CORS_ORIGINS allows every page", "CORS_ORIGINS=https://<your console>")
    bare = [f"{at.scheme}://{at.netloc}" for at in map(urlsplit, origins)]
    if wrong := [origin for origin, right in zip(origins, bare, strict=True) if origin != right]:
        return fail(
            f"CORS_ORIGINS has {', '.join(wrong)}: an origin has no path and no slash at its end,"
            " so no page matches",
            f"CORS_ORIGINS={','.join(bare)}",
        )
    plain = [origin for origin in origins if origin.startswith("http://")]
    if plain and not target.is_local:
        return fail(f"CORS_ORIGINS has plain http: {', '.join(plain)}", "use https origins")
    return ok(", ".join(origins) or "no other origin is allowed")


@CHECKS.add("anonymous", needs=STACK, held_by_aws=True)
def anonymous(target: Target) -> Finding:
    """Anonymous use is a decision."""
    allowed = target.values.get("ALLOW_ANONYMOUS", "").lower() in {"1", "true", "yes", "on"}
    if allowed and not target.is_local:
        return warn("ALLOW_ANONYMOUS is on", "ALLOW_ANONYMOUS=false, unless it is intended")
    return ok("on, as the local stack has it" if allowed else "off")


@CHECKS.add("sealing", needs=STACK, held_by_aws=True)
def sealing(target: Target) -> Finding:
    """Vendor keys are sealed by KMS outside of development."""
    if target.values.get("KMS_KEY_ID"):
        return ok("by KMS")
    if not target.values.get("SEALING_KEY_FILE"):
        return fail(
            "neither KMS_KEY_ID nor SEALING_KEY_FILE is set: vendor keys cannot be stored",
            "KMS_KEY_ID=alias/minutehand-<stage>, or SEALING_KEY_FILE=.local/sealing.json",
        )
    if not target.is_local:
        return fail("vendor keys are sealed by a key file", "KMS_KEY_ID=alias/minutehand-<stage>")
    return ok("by a key file, as in development")


@CHECKS.add("mock-vendors", needs=STACK, after=("apps",), held_by_aws=True)
def mock(target: Target) -> Finding:
    """What the apps set for development, such as mock vendors, stays in development."""
    needs = needs_of(Project.at(target.root))
    # what a deployed function gets from its parameters is not mocked
    deployed = {name for more in needs.functions.values() for name in more.environment}
    mocked = [
        name
        for name, value in needs.local.items()
        if value and name not in deployed and target.values.get(name) == value
    ]
    if mocked and not target.is_local:
        return fail(
            f"{', '.join(mocked)}: as in development, people get invented data",
            f"do not set {', '.join(mocked)}",
        )
    return ok("on, as the local stack has it" if mocked else "off")
