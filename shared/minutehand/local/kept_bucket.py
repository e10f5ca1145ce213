"""The uploads bucket's objects as files, since moto keeps them in memory and forgets them.

Written by the process that serves them; what an object is remains moto's to say.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any, Final

ACCOUNT: Final = "123456789012"


class KeptBucket:
    """A bucket of moto in this process, and the folder where its objects are found again.

    Args:
        folder: Made when there is something to keep; read by `pickle`, so never a stranger's.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._kept: set[str] = set()

    def restore(self) -> None:
        """Put everything back that was kept, unfinished uploads too; call it once."""
        from moto.s3.models import FakeKey

        bucket = self._bucket()
        for file in sorted(self._folder.glob("*")):
            try:
                one = pickle.loads(file.read_bytes())
            except Exception:  # half written, or by another version of moto
                file.unlink()
                continue
            if isinstance(one, FakeKey):
                bucket.keys[one.name] = one
            else:
                bucket.multiparts[one.id] = one
            self._kept.add(file.name)

    def keep(self, *, unfinished: bool = False) -> None:
        """Bring the folder up to date; with `unfinished` also the parts of uploads under way."""
        bucket = self._bucket()
        found: dict[str, Any] = {
            hashlib.sha256(f"{name} {one.etag}".encode()).hexdigest(): one
            for name, one in bucket.keys.items()  # of a copy
        }
        if unfinished:
            found |= {each.id: each for each in bucket.multiparts.copy().values() if each.parts}
        for name in self._kept - found.keys():
            (self._folder / name).unlink(missing_ok=True)
        for name in found.keys() - self._kept:
            self._folder.mkdir(parents=True, exist_ok=True)
            draft = self._folder / ".draft"
            draft.write_bytes(pickle.dumps(found[name]))
            draft.replace(self._folder / name)
        self._kept = set(found)

    def _bucket(self) -> Any:
        from moto.s3.models import s3_backends

        return s3_backends[ACCOUNT]["aws"].buckets[self._name]
