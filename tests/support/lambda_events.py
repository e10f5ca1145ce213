"""HTTP events of API Gateway with payload format 2.0, and contexts, as Lambda passes them."""

from typing import Any


def http_event(
    method: str,
    path: str,
    *,
    route: str = "$default",
    query: str = "",
    body: str | None = None,
    **headers: str,
) -> dict[str, Any]:
    """Return the fields of an event that our functions and their adapter read."""
    return {
        "version": "2.0",
        "routeKey": route,
        "rawPath": path,
        "rawQueryString": query,
        "headers": {
            "host": "k3xample0a.execute-api.eu-central-1.amazonaws.com",
            "x-forwarded-proto": "https",
            **({} if body is None else {"content-type": "application/json"}),
            **headers,
        },
        "requestContext": {
            "http": {"method": method, "path": path, "sourceIp": "203.0.113.24"},
            "requestId": "UVq9hjfZliAEM01=",
        },
        **({} if body is None else {"body": body}),
        "isBase64Encoded": False,
    }


class LambdaContext:
    """A Lambda context of a function with a short timeout."""

    aws_request_id = "8f507cfc-26d8-4e3e-9b1a-2d5d1f1b6c0e"

    def get_remaining_time_in_millis(self) -> int:
        return 8_000
