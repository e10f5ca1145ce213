"""The console's files. A wheel contains these files, and a checkout bundles them with esbuild."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from minutehand.node import atomic_folder, node_binary
from minutehand.resources import checkout, resource

#: Parts of the sources that are not in the bundle.
EXCLUDED = frozenset({"npm", "screenshots", "README.md"})
#: Page whose definitions are the console's tooltips.
CONCEPTS = "shared/minutehand/pages/concepts.md"
#: Age at which a checkout deletes a bundle of earlier sources.
MAX_BUNDLE_AGE = 7 * 24 * 3600


def console_folder() -> Path:
    """Return the folder of the console's files. A checkout builds the files again after a change.

    Raises:
        NodeMissing: Node is missing, which a checkout needs for the bundle.
        subprocess.CalledProcessError: The bundle cannot be built.
    """
    source = resource("console")
    root = checkout()
    if root is None:
        return source
    digest = _digest(source, root / "package-lock.json", root / CONCEPTS)
    folder = root / ".local" / "console" / digest
    if not folder.is_dir():
        with atomic_folder(folder) as draft:
            subprocess.run([node_binary(), source / "build.mjs", draft], check=True)
        delete_old(folder.parent)
    return folder


def delete_old(folder: Path) -> None:
    """Delete bundles that are a week old. A running stack may still serve a newer bundle."""
    for bundle in folder.iterdir():
        with suppress(FileNotFoundError):  # another process has moved or deleted it
            if bundle.stat().st_mtime < time.time() - MAX_BUNDLE_AGE:
                shutil.rmtree(bundle, ignore_errors=True)


def _digest(source: Path, *extra: Path) -> str:
    """Return a hash of everything that the bundle depends on."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    used = [path for path in files if path.relative_to(source).parts[0] not in EXCLUDED]
    contents = (path.read_bytes() for path in (*used, *extra))
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]
