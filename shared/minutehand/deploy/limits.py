"""What an AWS account allows: asked before a deploy, or read from a failed stack's events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Service Quotas' code of functions at once.
CONCURRENCY = "L-B99A9384"
#: https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html: what must stay
#: unreserved; an account with less than that has nothing to reserve.
UNRESERVED = 100
USUAL_CONCURRENCY = 1000
#: When neither the stage nor a reservation says how many workers may run at once.
WORKERS_AT_ONCE = 5


@dataclass(frozen=True)
class Limit:
    """One limit: whether the stage fits, what is so, and what to do; a `warn` does not stop."""

    verdict: str
    detail: str
    fix: str = ""

    @property
    def stops(self) -> bool:
        """Whether CloudFormation would refuse, or the stack could not work."""
        return self.verdict == "fail"


def request_quota(wanted: int, region: str) -> str:
    """The request to file, as a command."""
    return (
        f"aws service-quotas request-service-quota-increase --service-code lambda "
        f"--quota-code {CONCURRENCY} --desired-value {wanted} --region {region}"
    )


def concurrency_limit(client: Any, stack: str, region: str, values: Mapping[str, Any]) -> Limit:
    """What the stage reserves leaves enough, and its workers leave the API room."""
    account = client.get_account_settings()["AccountLimit"]
    limit, unreserved = account["ConcurrentExecutions"], account["UnreservedConcurrentExecutions"]
    more = request_quota(USUAL_CONCURRENCY, region)
    wanted = _number(values, "workerReservedConcurrency")
    if wanted:
        kept = min(UNRESERVED, limit)
        free = unreserved + _held(client, stack) - kept
        if wanted > free:
            return Limit(
                "fail",
                f"this account runs {limit} functions at once in {region} and {kept} must stay "
                f"unreserved: of workerReservedConcurrency: {wanted} it can give {max(0, free)}",
                f"omit workerReservedConcurrency, or request more: {more}",
            )
        return Limit("ok", f"{wanted} of {limit} reserved for workers")
    workers = _number(values, "workersAtOnce") or WORKERS_AT_ONCE
    most = max(1, unreserved // 2)
    if workers > most:
        return Limit(
            "fail",
            f"{workers} workers at once of the {unreserved} functions that this account runs in "
            f"{region} leave the API too little: it would answer 503",
            f"workersAtOnce: '{most}' in the stage, or request more: {more}",
        )
    if limit < UNRESERVED:
        return Limit(
            "warn",
            f"this account runs {limit} functions at once in {region}; {workers} are workers'",
            f"enough to begin with; before real traffic: {more}",
        )
    return Limit("ok", f"{workers} workers of {unreserved} at once")


def _number(values: Mapping[str, Any], name: str) -> int:
    value = str(values.get(name))
    return int(value) if value.isdigit() else 0


def _held(client: Any, stack: str) -> int:
    """What the stack's worker has reserved already, which an update may use again."""
    try:
        found = client.get_function_concurrency(FunctionName=f"{stack}-worker")
    except client.exceptions.ResourceNotFoundException:
        return 0
    return int(found.get("ReservedConcurrentExecutions") or 0)


#: What CloudFormation says of an account's limits, and what to do about it.
REASONS: tuple[tuple[str, str], ...] = (
    (
        "must be verified before you can add new CloudFront",
        "AWS has not verified this account for CloudFront: set console: 'false' in the stage and "
        "deploy again; open a case in Support Center, Account and billing, to have it later",
    ),
    (
        "UnreservedConcurrentExecution below its minimum",
        "remove workerReservedConcurrency from the stage, or request more concurrency",
    ),
    (
        "already exists",
        "an earlier stack left it behind: import it into this stack, or delete it first",
    ),
)


def explain_failure(cloudformation: Any, stack: str) -> tuple[str, str] | None:
    """The first refusal among a stack's newest events, and what to do; None when there is none."""
    from botocore.exceptions import ClientError

    try:
        events = cloudformation.describe_stack_events(StackName=stack)["StackEvents"]
    except ClientError:
        return None
    failed = [
        event
        for event in events
        if event.get("ResourceStatus", "").endswith("_FAILED")
        and "cancelled" not in event.get("ResourceStatusReason", "").lower()
    ]
    if not failed:
        return None
    first = failed[-1]  # newest first
    reason = str(first.get("ResourceStatusReason", ""))
    fix = next((fix for sign, fix in REASONS if sign in reason), "")
    return f"{first['LogicalResourceId']}: {reason}", fix
