"""Finds the `minutehand dev` that serves an address of a command's settings."""

from collections.abc import Mapping
from pathlib import Path

from minutehand.terminal.connection import read_env_file


def find_launcher(values: Mapping[str, str], name: str) -> int | None:
    """Return the pid of the `minutehand dev` that serves the address in the setting `name`.

    Return 0 if it does not run, and None if the address is not one of this machine's local stack,
    but for example of `supabase start`.
    """
    try:
        from supabase_local import state
    except ImportError:  # the extra `dev` installs this package
        return None
    folder = Path(values.get("SEALING_KEY_FILE", "")).parent
    env, password = folder / "env", folder / "postgres.password"
    if not env.is_file() or read_env_file(env).get(name) != values.get(name):
        return None
    # the stack has its own Supabase if the password of the database is the stack's
    is_own = password.is_file() and password.read_text() in values.get("DATABASE_URL", "")
    return state.find_launcher(folder) if is_own or name == "API_URL" else None
