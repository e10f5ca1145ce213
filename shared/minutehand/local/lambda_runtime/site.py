"""What CloudFront serves beside the API on one origin: the console's files and its configuration.

Caching and TLS are CloudFront's business and not imitated; the headers come from the caller, and
so does what only a developer's machine answers.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from minutehand.app import App
from minutehand.local.lambda_runtime.wire import Request, Response
from minutehand.node import node_home
from minutehand.resources import resource

#: The paths that CloudFront sends to the API; see infra/aws/console.yml.
API_PREFIXES = ("/api/", "/health")


#: The paths of this machine alone: see shared/minutehand/local/breaking.py.
LOCAL_PREFIX = "/local/"
LocalAnswer = Callable[[Request], Awaitable[Response]]


class Site:
    """Static files below some folders, by prefix; and `/config.json`.

    Args:
        headers: Added to every file.
        app_names: The apps with pages, as `/apps/index.json` lists them.
        local: Answers every method below `LOCAL_PREFIX`.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        config: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        local: LocalAnswer | None = None,
        app_names: Sequence[str] = (),
    ) -> None:
        self._folders = {prefix: folder.resolve() for prefix, folder in folders.items()}
        self._config = config
        self._headers = tuple((name.lower(), value) for name, value in (headers or {}).items())
        self._local = local
        self._app_names = list(app_names)

    def serves(self, request: Request) -> bool:
        """Whether this is not the API's."""
        if self._local is not None and request.path.startswith(LOCAL_PREFIX):
            return True
        return request.method in {"GET", "HEAD"} and not request.path.startswith(API_PREFIXES)

    async def answer(self, request: Request) -> Response:
        """What this machine alone answers, else a file."""
        if self._local is not None and request.path.startswith(LOCAL_PREFIX):
            return await self._local(request)
        return self(request)

    def __call__(self, request: Request) -> Response:
        """A file, the console's page for a path of its router, or 404."""
        path = unquote(request.path)
        if path == "/config.json":
            return Response.of_json(200, self._config, [("cache-control", "no-store")])
        if path == "/apps/index.json":
            return Response(
                200, json.dumps(self._app_names).encode(), (("content-type", "application/json"),)
            )
        for prefix in sorted(self._folders, key=len, reverse=True):
            if path.startswith(prefix):
                name = path[len(prefix) :]
                is_page = prefix == "/" and "." not in name and not name.startswith("/")
                answer = self._file(self._folders[prefix], name)
                if answer.status == 404 and is_page:
                    return self._file(self._folders[prefix], "index.html")
                return answer
        return Response.of_json(404, {"message": "Not Found"})

    def _file(self, folder: Path, name: str) -> Response:
        file = (folder / name).resolve()
        if file.is_dir():
            file /= "index.html"
        if not file.is_file() or not file.is_relative_to(folder):
            return Response.of_json(404, {"message": "Not Found"})
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return Response(200, file.read_bytes(), (("content-type", kind), *self._headers))


def console_site(apps: Iterable[App], config: Mapping[str, Any], **more: Any) -> Site:
    """The console, the pages of `apps`, and the npm packages that package.json names."""
    root = node_home()
    names = json.loads((root / "package.json").read_text("utf-8"))
    pages = {app.name: app.folder / "console" for app in apps if app.files("console", "*.js")}
    of_apps = {f"/apps/{name}/": folder for name, folder in pages.items()}
    packages = {**names.get("dependencies", {}), **names.get("devDependencies", {})}
    vendored = {f"/vendor/{name}/": root / "node_modules" / name for name in packages}
    folders = {"/": resource("console"), **of_apps, **vendored}
    return Site(folders, config, app_names=sorted(pages), **more)
