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

from minutehand.local.s3_guard import GuardedAws

Start = Callable[..., Any]
DEFAULT_QUOTAS = {"L-C2F1777E": 100_000.0, "L-24B04930": 200.0, "L-B99A9384": 1000.0}


@dataclass
class Account:
    """What this account allows, and what was asked of it."""

    concurrency: int = 10
    reserved_elsewhere: int = 0
    quotas: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_QUOTAS))
    runtimes: tuple[str, ...] = ("python3.13",)
    refuses: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)
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
                "UnreservedConcurrentExecutions": account.concurrency - account.reserved_elsewhere,
            }
            return _json(start, {"AccountLimit": limit, "AccountUsage": {"FunctionCount": 0}})
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
        return self._app(environ, start)


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
    server = GuardedAws("127.0.0.1", 0, lambda app: AccountApp(app, account))
    server.start()
    account.url = server.url
    try:
        yield account
    finally:
        server.stop()
