"""The values themselves: present, well-formed, not mixed up, no development secret outside."""

from __future__ import annotations

import re
from typing import Final

import jwt

from minutehand.cli.doctor.findings import Checks, Finding, Target, fail, ok, warn
from minutehand.cli.supabase_cli import HOSTED
from minutehand.config import ConfigurationError, Settings

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
