"""API Gateway's HTTP events, payload format 2.0, and contexts, as Lambda receives them.

All were recorded; they are written here as what they have in common and what differs.
"""

from __future__ import annotations

import json
import time
from typing import Any

JOB = "/api/jobs/019a9f10-7e2c-7d31-9c52-0d6d5f5b7c11"
BODY = (
    '{"workspace_id": "11111111-1111-4111-8111-111111111111", "job_type": "enrich_account",'
    ' "payload": {"domain": "bücher.example"}}'
)
#: Route, path and what else each has: headers, fields of the request's context, fields.
EVENTS: dict[str, tuple[str, str, dict[str, str], dict[str, str], dict[str, Any]]] = {
    "http_get_job": ("GET /api/jobs/{proxy+}", JOB, {}, {}, {}),
    "http_create_job": (
        "POST /api/jobs",
        "/api/jobs",
        {"content-type": "application/json", "idempotency-key": "order-4711"},
        {},
        {"body": BODY},
    ),
}


def load_event(name: str, *, token: str = "USER_TOKEN") -> dict[str, Any]:
    """The event called `name`, with the token of a user."""
    route, path, headers, context, more = EVENTS[name]
    host = "k3xample0a.execute-api.eu-central-1.amazonaws.com"
    return {
        "version": "2.0",
        "routeKey": route,
        "rawPath": path,
        "rawQueryString": "",
        "headers": {
            "accept": "*/*",
            "authorization": f"Bearer {token}",
            "host": host,
            "user-agent": "curl/8.5.0",
            "x-amzn-trace-id": "Root=1-6920a001-0f3c2d1b5a69788700000001",
            "x-forwarded-for": "203.0.113.24",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
            **({"content-length": str(len(BODY.encode()))} if "body" in more else {}),
            **headers,
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "k3xample0a",
            "domainName": host,
            "domainPrefix": "k3xample0a",
            "http": {
                "method": route.split(" ")[0],
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.24",
                "userAgent": "curl/8.5.0",
            },
            "requestId": "UVq9hjfZliAEM01=",
            "routeKey": route,
            "stage": "$default",
            "time": "20/Nov/2026:08:00:00 +0000",
            "timeEpoch": 1795161600000,
            **context,
        },
        "isBase64Encoded": False,
        **json.loads(json.dumps(more)),
    }


class LambdaContext:
    """A context as the runtime hands it over; time really runs out."""

    function_version = "$LATEST"
    memory_limit_in_mb = "1024"
    aws_request_id = "8f507cfc-26d8-4e3e-9b1a-2d5d1f1b6c0e"

    def __init__(self, function: str) -> None:
        self.function_name = f"minutehand-dev-{function}"
        self.invoked_function_arn = (
            f"arn:aws:lambda:eu-central-1:123456789012:function:{self.function_name}"
        )
        self._ends_at = time.monotonic() + 8

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function would be killed."""
        return max(0, int((self._ends_at - time.monotonic()) * 1000))
