"""The extensions that the embedded server offers: those of its packages, and stand-ins in SQL.

A hosted project's owner, no superuser, creates them all, so each has a control file here that
trusts the owner. What neither has is passed over by `migrations`.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

STAND_INS = Path(__file__).with_name("hosted") / "extensions"
#: Those whose objects lie in one schema, whatever the statement says.
_SCHEMAS = {"supabase_vault": "vault", "pgmq": "pgmq"}
#: What a stand-in calls of another.
_REQUIRES = {"pgjwt": "pgcrypto"}


def write_extensions(folder: Path, system: Path) -> None:
    """Make the control files and scripts in `folder`, which `extension_control_path` names.

    Args:
        folder: Its subfolder `extension` gets them.
        system: The folder of the packages' own control files.
    """
    target = folder / "extension"
    target.mkdir(parents=True, exist_ok=True)
    for control in system.glob("*.control"):
        text = f"{control.read_text()}\ndirectory = '{system}'\ntrusted = true\n"
        (target / control.name).write_text(text)
    for script in STAND_INS.glob("*.sql"):
        name, _, version = script.stem.partition("--")
        (target / script.name).write_text(script.read_text("utf-8").replace("{@pi@}", _pi()))
        text = f"default_version = '{version}'\nrelocatable = false\ntrusted = true\n"
        text += f"schema = '{_SCHEMAS[name]}'\n" if name in _SCHEMAS else ""
        text += f"requires = '{_REQUIRES[name]}'\n" if name in _REQUIRES else ""
        (target / f"{name}.control").write_text(text)


@cache
def _pi() -> str:
    """The fraction of pi in words of 32 bits, by Gauss and Legendre: what Blowfish begins with."""
    words, spare = 18 + 4 * 256, 64
    bits = 32 * words + spare
    a, b, t, n = 1 << bits, math.isqrt(1 << 2 * bits - 1), 1 << bits - 2, 0
    while a - b > 1:
        a, b, before, n = a + b >> 1, math.isqrt(a * b), a, n + 1
        t -= (before - a) ** 2 >> bits - n + 1
    pi = (a + b) ** 2 // (4 * t) >> spare
    mask = (1 << 32) - 1
    return "{" + ",".join(str(pi >> 32 * (words - 1 - n) & mask) for n in range(words)) + "}"
