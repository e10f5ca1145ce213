"""The console as it lies in its bucket: which files, as what, and for how long they may be kept.

Which path is which file is CloudFront's business: console.yml and pages.js.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from minutehand.app import App, find_apps
from minutehand.deploy.build import PackagingError
from minutehand.node import node_home
from minutehand.project import Project
from minutehand.resources import resource

#: Not `mimetypes`: it asks the machine, and with `nosniff` a browser accepts nothing else.
CONTENT_TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
#: Types are for editors, not for browsers.
TYPES = ".ts"
#: For people who read the checkout, not for browsers.
LEFT_OUT = frozenset({"npm", "screenshots", "vendor.json", "README.md"})
#: Names carry no hash, so a browser asks each time (and gets 304); an edge may keep a file for a
#: day, and every upload invalidates all edges.
KEPT_AT_THE_EDGE = "public, max-age=0, must-revalidate, s-maxage=86400"
#: The way back from a wrong upload must not wait for any cache.
NEVER_KEPT = "no-store"
NEVER_KEPT_FILES = frozenset({"config.json", "index.html"})


@dataclass(frozen=True)
class Asset:
    """One file as its bucket serves it."""

    body: bytes
    content_type: str
    cache_control: str


def console_assets(config: Mapping[str, Any], apps: Iterable[App]) -> dict[str, Asset]:
    """Every file of the console by its key, vendored packages and `config` included.

    Raises:
        PackagingError: A vendored file differs from its checksum, or a type is unknown.
    """
    console = resource("console")
    vendored = json.loads((console / "vendor.json").read_text("utf-8"))["files"]
    bodies = {
        path.relative_to(console).as_posix(): path.read_bytes()
        for path in sorted(console.rglob("*"))
        if path.is_file()
        and path.relative_to(console).parts[0] not in LEFT_OUT
        and path.suffix != TYPES
    }
    names = []
    for app in apps:
        files = app.files("console", "**/*")
        pages = [path for path in files if path.is_file() and path.suffix != TYPES]
        for path in pages:
            inside = path.relative_to(app.folder / "console").as_posix()
            bodies[f"apps/{app.name}/{inside}"] = path.read_bytes()
        names += [app.name] if pages else []
    bodies["apps/index.json"] = json.dumps(names).encode()
    for name, checksum in sorted(vendored.items()):
        path = node_home() / "node_modules" / name
        bodies[f"vendor/{name}"] = _vendored(path, name, checksum)
    bodies["config.json"] = json.dumps(config).encode()
    return {key: _asset(key, body) for key, body in bodies.items()}


def upload(s3: Any, bucket: str, assets: Mapping[str, Asset]) -> None:
    """Put every file, the page last: until then no one is sent to what is not there yet.

    Nothing is deleted, so a tab opened before still finds the modules it has not loaded yet.
    """
    for key in sorted(assets, key=lambda key: (key in NEVER_KEPT_FILES, key)):
        asset = assets[key]
        s3.put_object(
            Bucket=bucket,
            Key=key,
            Body=asset.body,
            ContentType=asset.content_type,
            CacheControl=asset.cache_control,
        )


def invalidate(cloudfront: Any, distribution: str) -> None:
    """Have every edge drop what it keeps."""
    cloudfront.create_invalidation(
        DistributionId=distribution,
        InvalidationBatch={
            "Paths": {"Quantity": 1, "Items": ["/*"]},
            "CallerReference": f"minutehand-{time.time_ns()}",
        },
    )


def write(folder: Path, assets: Mapping[str, Asset]) -> None:
    """Write every file below `folder`, for a server of static files."""
    for key, asset in assets.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(asset.body)


def main(arguments: Sequence[str]) -> int:
    """Write the console with this project's apps; the server answers /config.json."""
    if len(arguments) != 1:
        print("usage: python -m minutehand.deploy.console FOLDER", file=sys.stderr)
        return 2
    assets = console_assets({}, find_apps(Project.find().apps))
    del assets["config.json"]
    write(Path(arguments[0]), assets)
    print(f"{len(assets)} files")
    return 0


def _vendored(path: Path, name: str, checksum: str) -> bytes:
    body = path.read_bytes() if path.is_file() else b""
    if checksum != f"sha256-{hashlib.sha256(body).hexdigest()}":
        raise PackagingError(
            f"{name} is not what the console's vendor.json says; delete node_modules, or its copy"
            " in the cache, and build again"
        )
    return body


def _asset(key: str, body: bytes) -> Asset:
    suffix = PurePosixPath(key).suffix
    if suffix not in CONTENT_TYPES:
        raise PackagingError(f"{key}: no content type is known; add it to CONTENT_TYPES")
    kept = NEVER_KEPT if key in NEVER_KEPT_FILES else KEPT_AT_THE_EDGE
    return Asset(body, CONTENT_TYPES[suffix], kept)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
