"""An AWS account with limits of its own: moto, and what moto does not know of an account.

`GetAccountSettings`, `ListLayers` and Service Quotas answer in AWS's own formats; reserved
concurrency and CloudFront refuse in AWS's own words. The rest is moto's.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from minutehand.local.aws import MotoServer
from tests.support.cloudformation import for_moto, show_outputs

Start = Callable[..., Any]
DEFAULT_QUOTAS = {"L-C2F1777E": 100_000.0, "L-24B04930": 200.0, "L-B99A9384": 1000.0}

#: moto validates by a linter of its own version; the artefact's tests do so by the pinned one.
VALID = (
    '<ValidateTemplateResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/">'
    "<ValidateTemplateResult><Parameters/></ValidateTemplateResult></ValidateTemplateResponse>"
)
INVALIDATED = (
    '<Invalidation xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/"><Id>I1</Id>'
    "<Status>InProgress</Status><CreateTime>2026-01-01T00:00:00Z</CreateTime>"
    "<InvalidationBatch><Paths><Quantity>1</Quantity><Items><Path>/*</Path></Items></Paths>"
    "<CallerReference>x</CallerReference></InvalidationBatch></Invalidation>"
)


@dataclass
class Account:
    """What this account allows, and what was asked of it."""

    concurrency: int = 10
    reserved_elsewhere: int = 0
    #: Reserved concurrency by function; moto's where it says nothing.
    reserved: dict[str, int] = field(default_factory=dict)
    quotas: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_QUOTAS))
    runtimes: tuple[str, ...] = ("python3.13",)
    refuses: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)
    invoked: list[str] = field(default_factory=list)
    invalidated: int = 0
    #: Runs where Lambda would, which moto does in Docker only.
    on_invoke: Callable[[str], Any] = field(default=lambda name: {})
    url: str = ""


class AccountApp:
    """A WSGI middleware before moto."""

    def __init__(self, app: Callable[..., Iterable[bytes]], account: Account) -> None:
        self._app, self._account = app, account

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """Serve one request."""
        account, path = self._account, environ["PATH_INFO"]
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        account.asked.append(f"{environ['REQUEST_METHOD']} {path} {target}".strip())
        if any(word in account.asked[-1] for word in account.refuses):
            return _json(start, {"Code": "AccessDeniedException", "message": "no"}, 403)
        if path.rstrip("/") == "/2016-08-19/account-settings":
            limit = {
                "ConcurrentExecutions": account.concurrency,
                "UnreservedConcurrentExecutions": account.concurrency
                - account.reserved_elsewhere
                - sum(account.reserved.values()),
            }
            return _json(start, {"AccountLimit": limit, "AccountUsage": {"FunctionCount": 0}})
        name, _, asked = path.removeprefix("/2019-09-30/functions/").partition("/")
        if asked == "concurrency" and name in account.reserved:
            return _json(start, {"ReservedConcurrentExecutions": account.reserved[name]})
        if path == "/2018-10-31/layers":
            if any(
                f"CompatibleRuntime={name}" in environ["QUERY_STRING"] for name in account.runtimes
            ):
                return _json(start, {"Layers": []})
            problem = {"Type": "User", "message": "Value at 'compatibleRuntime' failed"}
            return _json(start, problem, 400, "InvalidParameterValueException")
        if target == "ServiceQuotasV20190624.GetServiceQuota":
            body = json.loads(_read(environ))
            value = {"QuotaCode": body["QuotaCode"], "Value": account.quotas[body["QuotaCode"]]}
            return _json(start, {"Quota": value})
        if path.endswith("/compiled-cloudformation-template.json") and _is_put(environ):
            made = json.dumps(for_moto(json.loads(_read(environ)))).encode()
            environ |= {"wsgi.input": io.BytesIO(made), "CONTENT_LENGTH": str(len(made))}
        if path == "/" and b"Action=ValidateTemplate" in _read(environ):
            return _xml(start, VALID)
        if path == "/" and b"Action=DescribeStacks" in _read(environ):
            show_outputs()
        if path.endswith("/invocations"):
            account.invoked.append(path.split("/")[3])
            return _json(start, account.on_invoke(path.split("/")[3]))
        if path.endswith("/invalidation") and environ["REQUEST_METHOD"] == "POST":
            account.invalidated += 1
            return _xml(start, INVALIDATED, 201)
        return self._app(environ, start)


def _is_put(environ: dict[str, Any]) -> bool:
    return bool(environ["REQUEST_METHOD"] == "PUT")


def _xml(start: Start, body: str, status: int = 200) -> Iterable[bytes]:
    start(f"{status} X", [("content-type", "text/xml")])
    return [body.encode()]


def _read(environ: dict[str, Any]) -> bytes:
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _json(start: Start, body: Any, status: int = 200, error: str = "") -> Iterable[bytes]:
    headers = [("content-type", "application/json")]
    start(f"{status} X", headers + ([("x-amzn-errortype", error)] if error else []))
    return [json.dumps(body).encode()]


@contextmanager
def aws_account(**limits: Any) -> Iterator[Account]:
    """Serve an account with these limits; its address is `url`."""
    account = Account(**limits)
    server = MotoServer("127.0.0.1", 0, lambda app: AccountApp(app, account))
    server.start()
    account.url = server.url
    try:
        yield account
    finally:
        server.stop()
