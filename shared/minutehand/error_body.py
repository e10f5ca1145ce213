"""The body of each response with status 400 or above, which all functions share.

This module imports only the standard library, because the worker and the probe of `/health` load no
web framework.
"""

from typing import Any

# code and text of errors that each function may return
ROUTE_NOT_FOUND = ("route_not_found", "Route not found")
METHOD_NOT_ALLOWED = ("method_not_allowed", "This route does not take that method")
INVALID_JSON = ("invalid_json", "The request body is not valid JSON")


def error_body(
    code: str, error: str, *, request_id: str | None, detail: Any = None
) -> dict[str, Any]:
    """Build the body, which always has four keys. `code` is stable, and `error` is for people."""
    return {"error": error, "code": code, "detail": detail, "request_id": request_id}
