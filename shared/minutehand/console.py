"""The files of the console. A wheel contains them, and a checkout bundles them with esbuild."""

import hashlib
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from minutehand.node import atomic_folder, node_binary
from minutehand.resources import checkout, resource

#: Files and folders of the console's sources that are not bundled.
EXCLUDED = frozenset({"npm", "screenshots", "README.md"})
#: Page with the definitions that the console shows as tooltips.
CONCEPTS = "shared/minutehand/pages/concepts.md"
#: Seconds after which a checkout deletes a bundle of older sources.
MAX_BUNDLE_AGE = 7 * 24 * 3600


def console_folder() -> Path:
    """Return the folder of the console's files. A checkout bundles them again if they changed.

    Raises:
        NodeMissing: Node is missing, which a checkout needs to bundle the console.
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
    """Delete bundles that are older than a week. A running stack may still serve a newer bundle."""
    for bundle in folder.iterdir():
        with suppress(FileNotFoundError):  # another process may have moved or deleted the bundle
            if bundle.stat().st_mtime < time.time() - MAX_BUNDLE_AGE:
                shutil.rmtree(bundle, ignore_errors=True)


def _digest(source: Path, *extra: Path) -> str:
    """Return a hash of all files on which the bundle depends."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    used = [path for path in files if path.relative_to(source).parts[0] not in EXCLUDED]
    contents = (path.read_bytes() for path in (*used, *extra))
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]
