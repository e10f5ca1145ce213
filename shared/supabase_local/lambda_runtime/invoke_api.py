"""The Lambda API's Invoke, as boto3 calls it: headers, status codes and error bodies included.

Signatures are not checked: this listens on loopback for this machine's own stack.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import uuid
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote

from supabase_local.http import Request, Response
from supabase_local.lambda_runtime.asynchronous import AsynchronousQueue
from supabase_local.lambda_runtime.function import Function, TooManyRequests
from supabase_local.lambda_runtime.invocation import Invocation, trace_header

_INVOKE = re.compile(r"^/2015-03-31/functions/(?P<name>[^/]+)/invocations$")
SYNC_LIMIT = 6 * 1024 * 1024
ASYNC_LIMIT = 1024 * 1024


class InvokeApi:
    """Answers `POST /2015-03-31/functions/{name}/invocations`."""

    def __init__(self, functions: Mapping[str, Function], queue: AsynchronousQueue) -> None:
        self._functions = functions
        self._queue = queue

    def serves(self, request: Request) -> bool:
        """Whether this request is for the Lambda API and not for an HTTP API route."""
        return request.path.startswith("/2015-03-31/")

    async def __call__(self, request: Request) -> Response:
        """Invoke the named function, or refuse in the API's own words."""
        match = _INVOKE.match(request.path)
        if match is None or request.method != "POST":
            return _refuse(404, "UnknownOperationException", "only Invoke is implemented")
        name = _bare_name(unquote(match["name"]))
        qualifier = parse_qs(request.query).get("Qualifier", ["$LATEST"])[0]
        function = self._functions.get(name)
        if function is None or qualifier != "$LATEST":
            arn = f"arn:aws:lambda:us-east-1:123456789012:function:{name}"
            return _refuse(404, "ResourceNotFoundException", f"Function not found: {arn}")
        kind = request.header("x-amz-invocation-type", "RequestResponse")
        limit = ASYNC_LIMIT if kind == "Event" else SYNC_LIMIT
        if len(request.body) > limit:
            message = f"{len(request.body)} byte payload is too large (limit {limit} bytes)"
            return _refuse(413, "RequestTooLargeException", message)
        payload = request.body or b"{}"
        if problem := _not_json(payload):
            return _refuse(400, "InvalidRequestContentException", problem)
        if kind == "DryRun":
            return Response(204)
        invocation = Invocation(
            payload,
            trace_id=request.header("x-amzn-trace-id") or trace_header(),
            client_context=_client_context(request.header("x-amz-client-context")),
        )
        if kind == "Event":
            self._queue.accept(function, invocation)
            return Response(202, headers=_answer_headers(invocation))
        if kind != "RequestResponse":
            return _refuse(400, "InvalidParameterValueException", f"InvocationType {kind!r}")
        return await self._synchronous(function, invocation, request.header("x-amz-log-type"))

    async def _synchronous(
        self, function: Function, invocation: Invocation, log_type: str
    ) -> Response:
        try:
            outcome = await function.invoke(invocation)
        except TooManyRequests:
            return _refuse(
                429, "TooManyRequestsException", "Rate Exceeded.",
                {"Reason": "ReservedFunctionConcurrentInvocationLimitExceeded"},
            )  # fmt: skip
        headers = [*_answer_headers(invocation), ("x-amz-executed-version", "$LATEST")]
        if outcome.error is not None:
            headers.append(("x-amz-function-error", "Unhandled"))
        if log_type == "Tail":
            headers.append(("x-amz-log-result", base64.b64encode(outcome.log_tail).decode()))
        return Response(200, outcome.payload, (("content-type", "application/json"), *headers))


def _answer_headers(invocation: Invocation) -> tuple[tuple[str, str], ...]:
    return (("x-amzn-requestid", invocation.request_id), ("x-amzn-trace-id", invocation.trace_id))


def _refuse(
    status: int, error: str, message: str, more: Mapping[str, str] | None = None
) -> Response:
    body = {"Type": "User", "message": message, "Message": message, **(more or {})}
    return Response.of_json(
        status, body, [("x-amzn-errortype", error), ("x-amzn-requestid", str(uuid.uuid4()))]
    )


def _bare_name(reference: str) -> str:
    """A name, a partial or a whole ARN → the name."""
    if ":function:" in reference:
        reference = reference.partition(":function:")[2]
    return reference.partition(":")[0]


def _not_json(payload: bytes) -> str | None:
    try:
        json.loads(payload)
    except ValueError as error:
        return f"Could not parse request body into json: {error}"
    return None


def _client_context(encoded: str) -> str | None:
    if not encoded:
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
