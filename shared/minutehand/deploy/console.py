"""Uploads the console's files to an S3 bucket, with their content types and cache headers.

infra/aws/console.yml and pages.js define how CloudFront maps a URL's path to a file.
"""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from minutehand.app import App, find_apps
from minutehand.console import console_folder
from minutehand.deploy.build import PackagingError
from minutehand.project import Project

#: Content types by suffix of a file. Python's `mimetypes` is not used, because its results depend
#: on the machine, and a browser needs the exact type because of the header `nosniff`.
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
#: Cache header of most files. A browser revalidates a file at each use, because the file's name
#: contains no hash. CloudFront's edges may cache a file for a day, because `minutehand deploy`
#: invalidates all edges after each upload.
CDN_CACHED = "public, max-age=0, must-revalidate, s-maxage=86400"
#: Cache header of the files that a browser loads first. Browsers do not store these files, so that
#: they use a new upload immediately.
NO_STORE = "no-store"
NO_STORE_FILES = frozenset({"config.json", "index.html"})


@dataclass(frozen=True)
class ConsoleFile:
    """A file of the console in the S3 bucket, with the file's headers."""

    body: bytes
    content_type: str
    cache_control: str


def console_files(config: Mapping[str, Any], apps: Iterable[App]) -> dict[str, ConsoleFile]:
    """Return all files of the console, including `config`, by their key in the S3 bucket.

    Raises:
        PackagingError: This wheel does not contain the console, or a file has an unknown suffix.
    """
    console = console_folder()
    if not console.is_dir():
        raise PackagingError("this wheel must have the console's files; install a released wheel")
    bodies = {
        path.relative_to(console).as_posix(): path.read_bytes()
        for path in sorted(console.rglob("*"))
        if path.is_file()
    }
    manifests = []
    for app in apps:
        files = app.files("console", "**/*")
        # do not upload TypeScript declarations, because only editors read them
        pages = [path for path in files if path.is_file() and path.suffix != ".ts"]
        for path in pages:
            name = path.relative_to(app.folder / "console").as_posix()
            bodies[f"apps/{app.name}/{name}"] = path.read_bytes()
        manifests += [app.manifest] if app.manifest else []
    bodies["apps/index.json"] = json.dumps(manifests).encode()
    bodies["config.json"] = json.dumps(config).encode()
    return {key: _console_file(key, body) for key, body in bodies.items()}


def upload(s3: Any, bucket: str, files: Mapping[str, ConsoleFile]) -> None:
    """Upload all files, index.html last, so that the page never refers to a missing file.

    Old files are not deleted, so that an open browser tab still finds its modules.
    """
    for key in sorted(files, key=lambda key: (key in NO_STORE_FILES, key)):
        file = files[key]
        s3.put_object(
            Bucket=bucket,
            Key=key,
            Body=file.body,
            ContentType=file.content_type,
            CacheControl=file.cache_control,
        )


def invalidate(cloudfront: Any, distribution: str) -> None:
    """Invalidate all files in all edge caches of CloudFront."""
    cloudfront.create_invalidation(
        DistributionId=distribution,
        InvalidationBatch={
            "Paths": {"Quantity": 1, "Items": ["/*"]},
            "CallerReference": f"minutehand-{time.time_ns()}",
        },
    )


def main(arguments: Sequence[str]) -> int:
    """Write the console and the pages of this project's apps, for a server of static files.

    Omit config.json, which a server renders.
    """
    if len(arguments) != 1:
        print("usage: python -m minutehand.deploy.console FOLDER", file=sys.stderr)
        return 2
    files = console_files({}, find_apps(Project.find().apps))
    del files["config.json"]
    for key, file in files.items():
        path = Path(arguments[0], key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.body)
    print(f"{len(files)} files")
    return 0


def _console_file(key: str, body: bytes) -> ConsoleFile:
    suffix = PurePosixPath(key).suffix
    if suffix not in CONTENT_TYPES:
        raise PackagingError(f"{key} has no known content type; add it to CONTENT_TYPES")
    cache_control = NO_STORE if key in NO_STORE_FILES else CDN_CACHED
    return ConsoleFile(body, CONTENT_TYPES[suffix], cache_control)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
