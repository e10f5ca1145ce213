"""Checks an AWS account's limits before a deploy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Code, in AWS Service Quotas, of the limit on concurrent executions of Lambda functions.
CONCURRENCY = "L-B99A9384"
#: Number of concurrent executions that an AWS account must leave unreserved:
#: https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html
MIN_UNRESERVED = 100
#: Default maximum of concurrent workers, unless the stage sets `workersAtOnce` or a reservation.
WORKERS_AT_ONCE = 5


@dataclass(frozen=True)
class Limit:
    """A limit of an AWS account, a verdict on the stage (`ok`, `warn` or `fail`), and the remedy.

    With the verdict `fail`, CloudFormation would reject the stack, or the stack could not work.
    """

    verdict: str
    detail: str = ""
    fix: str = ""


def concurrency_limit(client: Any, stack: str, region: str, values: Mapping[str, Any]) -> Limit:
    """Check that AWS allows the workers' reservation, and that the API keeps enough concurrency."""
    account = client.get_account_settings()["AccountLimit"]
    limit, unreserved = account["ConcurrentExecutions"], account["UnreservedConcurrentExecutions"]
    command = (
        f"aws service-quotas request-service-quota-increase --service-code lambda "
        f"--quota-code {CONCURRENCY} --desired-value 1000 --region {region}"
    )
    reserved = _number(values, "workerReservedConcurrency")
    if reserved:
        minimum = min(MIN_UNRESERVED, limit)
        available = unreserved + _current_reservation(client, stack) - minimum
        if reserved > available:
            return Limit(
                "fail",
                f"workerReservedConcurrency must be at most {max(0, available)}, not {reserved}: "
                f"this account runs {limit} functions at once in {region}, and {minimum} must stay "
                "unreserved",
                f"omit workerReservedConcurrency, or request more: {command}",
            )
        return Limit("ok")
    workers = _number(values, "workersAtOnce") or WORKERS_AT_ONCE
    max_workers = max(1, unreserved // 2)
    if workers > max_workers:
        return Limit(
            "fail",
            f"{workers} workers at once would take too many of the {unreserved} functions that "
            f"this account runs in {region}, so that the API would respond 503",
            f"workersAtOnce: '{max_workers}' in the stage, or request more: {command}",
        )
    if limit < MIN_UNRESERVED:
        return Limit(
            "warn",
            f"this account runs {limit} functions at once in {region}, of which {workers} may be "
            "workers",
            f"enough to start with; before real traffic: {command}",
        )
    return Limit("ok")


def _number(values: Mapping[str, Any], name: str) -> int:
    value = str(values.get(name))
    return int(value) if value.isdigit() else 0


def _current_reservation(client: Any, stack: str) -> int:
    """Read the stack's current reservation for its worker, which an update of the stack frees."""
    try:
        response = client.get_function_concurrency(FunctionName=f"{stack}-worker")
    except client.exceptions.ResourceNotFoundException:
        return 0
    return int(response.get("ReservedConcurrentExecutions") or 0)
