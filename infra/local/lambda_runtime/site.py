"""What CloudFront serves beside the API on one origin: the console's files and its configuration.

Caching, headers and TLS are CloudFront's business and not imitated.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from infra.local.lambda_runtime.wire import Request, Response

#: The paths that CloudFront sends to the API; see infra/aws/console.yml.
API_PREFIXES = ("/api/", "/health")


class Site:
    """Static files below some folders, by prefix; and `/config.json`."""

    def __init__(self, folders: Mapping[str, Path], config: Mapping[str, str]) -> None:
        self._folders = {prefix: folder.resolve() for prefix, folder in folders.items()}
        self._config = config

    def serves(self, request: Request) -> bool:
        """Whether this is not the API's."""
        return request.method in {"GET", "HEAD"} and not request.path.startswith(API_PREFIXES)

    def __call__(self, request: Request) -> Response:
        """A file, the console's page for a path of its router, or 404."""
        path = unquote(request.path)
        if path == "/config.json":
            return Response.of_json(200, self._config, [("cache-control", "no-store")])
        for prefix in sorted(self._folders, key=len, reverse=True):
            if path.startswith(prefix):
                name = path[len(prefix) :]
                is_page = prefix == "/" and "." not in name and not name.startswith("/")
                answer = self._file(self._folders[prefix], name)
                if answer.status == 404 and is_page:
                    return self._file(self._folders[prefix], "index.html")
                return answer
        return Response.of_json(404, {"message": "Not Found"})

    @staticmethod
    def _file(folder: Path, name: str) -> Response:
        file = (folder / name).resolve()
        if file.is_dir():
            file /= "index.html"
        if not file.is_file() or not file.is_relative_to(folder):
            return Response.of_json(404, {"message": "Not Found"})
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return Response(200, file.read_bytes(), (("content-type", kind),))


def console_site(root: Path, config: Mapping[str, str]) -> Site:
    """The console and the npm packages that package.json names."""
    names = json.loads((root / "package.json").read_text("utf-8"))
    packages = {**names.get("dependencies", {}), **names.get("devDependencies", {})}
    vendored = {f"/vendor/{name}/": root / "node_modules" / name for name in packages}
    return Site({"/": root / "infra" / "console", **vendored}, config)
