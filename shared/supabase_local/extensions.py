"""The extensions of the embedded Postgres server, some of which are replacements in SQL.

The project's owner is not a superuser, but may create all of these extensions, because each one
gets a control file that trusts the owner. `migrations` skips other extensions.
"""

import math
from functools import cache
from pathlib import Path

STAND_INS = Path(__file__).with_name("hosted") / "extensions"
#: Extensions whose objects are always in a fixed schema, whatever `create extension` names.
_SCHEMAS = {"supabase_vault": "vault"}


def write_extensions(folder: Path, system: Path) -> None:
    """Write control files and scripts below `folder`, which `extension_control_path` then names.

    Args:
        folder: Folder for the subfolder `extension`, into which the files are written.
        system: Folder with the control files of the packages.
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
        (target / f"{name}.control").write_text(text)


@cache
def _pi() -> str:
    """Compute the fraction of pi in words of 32 bits, which is the initial state of Blowfish."""
    words, spare = 18 + 4 * 256, 64
    bits = 32 * words + spare
    a, b, t, n = 1 << bits, math.isqrt(1 << 2 * bits - 1), 1 << bits - 2, 0
    while a - b > 1:
        a, b, before, n = a + b >> 1, math.isqrt(a * b), a, n + 1
        t -= (before - a) ** 2 >> bits - n + 1
    pi = (a + b) ** 2 // (4 * t) >> spare
    mask = (1 << 32) - 1
    return "{" + ",".join(str(pi >> 32 * (words - 1 - n) & mask) for n in range(words)) + "}"
