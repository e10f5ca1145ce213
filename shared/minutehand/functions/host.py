"""Serves the routes of the worker and of the API on one origin, on hosts other than Lambda."""

from starlette.types import ASGIApp, Receive, Scope, Send

from minutehand.functions.worker.routes import PROCESS_PATH, WORKER_PATH


def is_api(path: str) -> bool:
    """Return whether a path belongs to the functions and not to the console."""
    return path in {"/health", "/metrics"} or path.startswith("/api/")


class Functions:
    """Routes each request to the worker or to the API, as API Gateway does.

    Args:
        worker: Serves the worker's routes.
        api: The app of the `jobs` function, which serves every other route.
    """

    def __init__(self, worker: ASGIApp, api: ASGIApp) -> None:
        self._worker = worker
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_worker = scope["path"] in {WORKER_PATH, PROCESS_PATH}
        await (self._worker if is_worker else self._api)(scope, receive, send)
