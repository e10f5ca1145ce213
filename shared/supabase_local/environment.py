"""URLs and keys of a stack, under the names that other tools read."""

from collections.abc import Mapping

from supabase_local.ports import LOOPBACK

PREFERRED_GATEWAY = 54321
PREFERRED_POSTGRES = 54322
#: Other names of some variables, which Supabase's guides use.
OTHER_NAMES = {
    "SUPABASE_URL": "NEXT_PUBLIC_SUPABASE_URL",
    "SUPABASE_SECRET_KEY": "SUPABASE_SERVICE_ROLE_KEY",
}
#: Variables of the launcher's environment that all child processes get.
PASSED = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TERM", "USER", "TZ", "XDG_CACHE_HOME"}
    | {"LOG_LEVEL", "DATA_API_VERSION", "NODE_COMPILE_CACHE", "PYTHONPATH"}
)


def addresses(gateway_port: int, database_url: str) -> dict[str, str]:
    """Return the URLs of a local stack."""
    return {"SUPABASE_URL": f"http://{LOOPBACK}:{gateway_port}", "DATABASE_URL": database_url}


def with_other_names(values: Mapping[str, str]) -> dict[str, str]:
    """Add each value a second time, under the other name of its variable."""
    others = {other: values[name] for name, other in OTHER_NAMES.items() if name in values}
    return {**values, **others}


def for_children(values: Mapping[str, str], inherited: Mapping[str, str]) -> dict[str, str]:
    """Build the environment variables of the stack's processes.

    A process gets only variables that it needs to run, so that no process can use a developer's
    real Supabase account.
    """
    passed = {name: value for name, value in inherited.items() if name in PASSED}
    return {**values, **passed, "PYTHONUNBUFFERED": "1"}
