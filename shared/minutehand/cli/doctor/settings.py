"""The values themselves: present, well-formed, not mixed up, no development secret outside."""

from __future__ import annotations

import jwt

from minutehand.cli.doctor.findings import Check, Finding, Reporter, Target
from minutehand.config import ConfigurationError, Settings
from minutehand.deploy.service import needs_of
from minutehand.project import Project

SHORTEST = 32
MAKE = "minutehand token secret"


def settings(target: Target) -> Finding:
    """Everything the service reads parses."""
    say = Reporter("settings")
    if not target.values:
        return say.fail(
            "no stack is known here", "minutehand dev, or name one: --env-file prod.env"
        )
    try:
        Settings.from_env(target.values)
    except ConfigurationError as error:
        return say.fail(str(error).split(". Example")[0], f"set {error.variable}={error.example}")
    return say.ok("every variable parses")


def publishable_key(target: Target) -> Finding:
    """What goes to browsers must be the key for browsers."""
    say = Reporter("publishable-key")
    key = target.values["SUPABASE_PUBLISHABLE_KEY"]
    fix = "set SUPABASE_PUBLISHABLE_KEY to the sb_publishable_… key of Project settings → API keys"
    if key.startswith("sb_secret_") or role_of(key) == "service_role":
        return say.fail("SUPABASE_PUBLISHABLE_KEY is a secret key: browsers would get it", fix)
    if role_of(key) == "anon":
        return say.warn("SUPABASE_PUBLISHABLE_KEY is a legacy anon key", fix)
    if not key.startswith("sb_publishable_"):
        return say.fail("SUPABASE_PUBLISHABLE_KEY must be a publishable key", fix)
    return say.ok("a publishable key")


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


def tokens(target: Target) -> Finding:
    """The tokens that start ticks: set, long, not the well-known ones, at most two of each."""
    say = Reporter("tokens")
    for name in ("WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN"):
        values = [part.strip() for part in target.values.get(name, "").split(",") if part.strip()]
        if not values:
            return say.fail(f"{name} is not set: ticks by HTTP are refused", f"{name}=$({MAKE})")
        if target.is_local:
            continue
        if any(value.startswith("dev-") for value in values):
            return say.fail(f"{name} is the development one, which is public", f"{name}=$({MAKE})")
        if any(len(value) < SHORTEST for value in values):
            return say.fail(f"{name} is shorter than {SHORTEST} characters", f"{name}=$({MAKE})")
    return say.ok("set" if target.is_local else "set, long enough")


def same_tokens(target: Target) -> Finding:
    """Two functions, two keys."""
    say = Reporter("tokens-differ")
    worker = set(target.values["WORKER_SECRET_TOKEN"].split(","))
    background = set(target.values["BACKGROUND_JOB_TOKEN"].split(","))
    if worker & background:
        return say.warn(
            "WORKER_SECRET_TOKEN and BACKGROUND_JOB_TOKEN share a value",
            f"BACKGROUND_JOB_TOKEN=$({MAKE})",
        )
    return say.ok("they differ")


def cors(target: Target) -> Finding:
    """Named origins, over TLS."""
    say = Reporter("cors")
    origins = [part for part in target.values.get("CORS_ORIGINS", "").split(",") if part]
    if "*" in origins:
        return say.fail("CORS_ORIGINS allows every page", "CORS_ORIGINS=https://<your console>")
    plain = [origin for origin in origins if origin.startswith("http://")]
    if plain and not target.is_local:
        return say.fail(f"CORS_ORIGINS has plain http: {', '.join(plain)}", "use https origins")
    return say.ok(", ".join(origins) or "no other origin is allowed")


def anonymous(target: Target) -> Finding:
    """Anonymous use is a decision."""
    say = Reporter("anonymous")
    allowed = target.values.get("ALLOW_ANONYMOUS", "").lower() in {"1", "true", "yes", "on"}
    if allowed and not target.is_local:
        return say.warn("ALLOW_ANONYMOUS is on", "ALLOW_ANONYMOUS=false, unless it is intended")
    return say.ok("on, as the local stack has it" if allowed else "off")


def sealing(target: Target) -> Finding:
    """Vendor keys are sealed by KMS outside of development."""
    say = Reporter("sealing")
    if target.values.get("KMS_KEY_ID"):
        return say.ok("by KMS")
    if not target.values.get("SEALING_KEY_FILE"):
        return say.fail(
            "neither KMS_KEY_ID nor SEALING_KEY_FILE is set: vendor keys cannot be stored",
            "KMS_KEY_ID=alias/minutehand-<stage>, or SEALING_KEY_FILE=.local/sealing.json",
        )
    if not target.is_local:
        return say.fail(
            "vendor keys are sealed by a key file", "KMS_KEY_ID=alias/minutehand-<stage>"
        )
    return say.ok("by a key file, as in development")


def mock(target: Target) -> Finding:
    """What the apps set for development, such as mock vendors, stays in development."""
    say = Reporter("mock-vendors")
    needs = needs_of(Project.at(target.root))
    # what a deployed function gets from its parameters is not mocked
    deployed = {name for more in needs.functions.values() for name in more.environment}
    mocked = [
        name
        for name, value in needs.local.items()
        if value and name not in deployed and target.values.get(name) == value
    ]
    if mocked and not target.is_local:
        return say.fail(
            f"{', '.join(mocked)}: as in development, people get invented data",
            f"do not set {', '.join(mocked)}",
        )
    return say.ok("on, as the local stack has it" if mocked else "off")


#: Without a stack there is one finding to make, and `settings` makes it.
STACK = ("SUPABASE_URL",)

CHECKS = (
    Check("settings", settings),
    Check("publishable-key", publishable_key, needs=("SUPABASE_PUBLISHABLE_KEY",)),
    Check("tokens", tokens, needs=STACK, held_by_aws=True),
    Check("tokens-differ", same_tokens, needs=("WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN")),
    Check("cors", cors, needs=STACK, held_by_aws=True),
    Check("anonymous", anonymous, needs=STACK, held_by_aws=True),
    Check("sealing", sealing, needs=STACK, held_by_aws=True),
    Check("mock-vendors", mock, needs=STACK, held_by_aws=True),
)
