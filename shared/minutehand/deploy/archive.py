"""Zips whose bytes depend on their content alone: sorted names, one instant, fixed modes.

What goes in is decided elsewhere; this only omits what no runtime reads.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

#: The earliest instant a zip can hold. Byte code is checked by nothing, so it need not match.
INSTANT = (1980, 1, 1, 0, 0, 0)

#: Of a distribution's metadata, what is read at run time or must travel with the code.
KEPT_METADATA = ("METADATA", "entry_points.txt")
DROPPED_SUFFIXES = (".pyi", ".pyx", ".pxd", ".c", ".h", ".typed", ".md", ".rst")
DROPPED_FOLDERS = frozenset({"bin", "tests", "test", "__pycache__"})


def prune(folder: Path) -> list[Path]:
    """Delete from an installed tree what no function reads; return what was deleted."""
    gone: list[Path] = []
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
            continue
        if _unneeded(path.relative_to(folder)):
            gone.append(path)
            path.unlink()
    return gone


def _unneeded(path: Path) -> bool:
    if path.name == ".lock" or any(part in DROPPED_FOLDERS for part in path.parts[:-1]):
        return True  # uv holds its lock where it installs
    metadata = next((part for part in path.parts if part.endswith(".dist-info")), None)
    if metadata is None:
        return path.suffix in DROPPED_SUFFIXES
    return path.name not in KEPT_METADATA and "licen" not in str(path).lower()


def write_zip(folder: Path, target: Path) -> str:
    """Pack `folder` into `target` and return the archive's SHA-256."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
            if path.is_dir():
                continue
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), INSTANT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            mode = 0o755 if path.suffix == ".so" else 0o644
            entry.external_attr = (0o100000 | mode) << 16
            archive.writestr(entry, path.read_bytes())  # level 6: 9 is three times the work
    return hashlib.sha256(target.read_bytes()).hexdigest()


def tree_size(folder: Path) -> int:
    """Bytes of all files below `folder`; 0 for a file."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
