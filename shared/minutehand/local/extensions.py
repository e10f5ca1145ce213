"""The extensions that the embedded server offers: those of its packages, and stand-ins in SQL.

A hosted project lets its owner create every one of `HOSTED`. So each has a control file here that
trusts the owner: the packages' own where there is one, else a stand-in of
`hosted/extensions`, else one without contents, whose name alone is accepted.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

STAND_INS = Path(__file__).parent / "hosted" / "extensions"
#: Names without contents are recognised by this version.
EMPTY = "0.0.0"
#: Every extension of a hosted project, https://supabase.com/docs/guides/database/extensions
HOSTED = (STAND_INS / "hosted.txt").read_text("utf-8").split()
#: Those whose objects lie in one schema, whatever the statement says.
_SCHEMAS = {"supabase_vault": "vault", "pg_graphql": "graphql", "pgsodium": "pgsodium"}


def write_extensions(folder: Path, system: Path) -> None:
    """Make the control files and scripts in `folder`, which `extension_control_path` names.

    Args:
        folder: Its subfolder `extension` gets them.
        system: The folder of the packages' own control files.
    """
    target = folder / "extension"
    target.mkdir(parents=True, exist_ok=True)
    for name in HOSTED:
        theirs = system / f"{name}.control"
        if theirs.exists():
            control = f"{theirs.read_text()}\ndirectory = '{system}'\n"
        else:
            script = next(STAND_INS.glob(f"{name}--*.sql"), None)
            version = script.stem.partition("--")[2] if script else EMPTY
            text = script.read_text("utf-8") if script else "-- known by its name alone\n"
            (target / f"{name}--{version}.sql").write_text(text.replace("{@pi@}", _pi()))
            control = f"default_version = '{version}'\nrelocatable = false\n"
            control += f"schema = '{_SCHEMAS[name]}'\n" if name in _SCHEMAS else ""
        (target / f"{name}.control").write_text(f"{control}trusted = true\n")


@cache
def _pi(words: int = 18 + 4 * 256) -> str:
    """The fraction of pi in words of 32 bits, by Gauss and Legendre: what Blowfish begins with."""
    spare = 64
    bits = 32 * words + spare
    a, b, t, n = 1 << bits, math.isqrt(1 << 2 * bits - 1), 1 << bits - 2, 0
    while a - b > 1:
        a, b, before, n = a + b >> 1, math.isqrt(a * b), a, n + 1
        t -= (before - a) ** 2 >> bits - n + 1
    pi = (a + b) ** 2 // (4 * t) >> spare
    mask = (1 << 32) - 1
    return "{" + ",".join(str(pi >> 32 * (words - 1 - n) & mask) for n in range(words)) + "}"
