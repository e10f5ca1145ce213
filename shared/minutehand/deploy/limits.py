"""What an AWS account allows, asked before a stack is made: each limit as a sentence.

Every question only reads. What no API shows, such as whether CloudFront trusts a new account, is
said
after a failed deploy from the stack's own events.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from minutehand.deploy.apps import Needs
from minutehand.deploy.parameters import NEEDED, secrets_of

Client = Callable[[str], Any]

#: Service Quotas' codes of what may be asked for.
CONCURRENCY = ("lambda", "L-B99A9384")
KMS_KEYS = ("kms", "L-C2F1777E")
DISTRIBUTIONS = ("cloudfront", "L-24B04930")
#: https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html: what must stay
#: unreserved; an account with less than that has nothing to reserve.
UNRESERVED = 100
USUAL_CONCURRENCY = 1000
#: https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-advanced-parameters.html
SSM_CHARACTERS = 4096
SSM_PARAMETERS = 10_000
RUNTIME = "python3.13"
#: Of the services in the template, those that not every region has.
SERVICES = ("apigatewayv2", "cloudformation", "kms", "lambda", "scheduler", "sns", "sqs", "ssm")
#: When neither the stage nor a reservation says how many workers may run at once.
WORKERS_AT_ONCE = 5


@dataclass(frozen=True)
class Limit:
    """One limit: whether the stage fits, what is so, and what to do; a `warn` does not stop."""

    name: str
    verdict: str
    detail: str
    fix: str = ""

    @property
    def stops(self) -> bool:
        """Whether CloudFormation would refuse, or the stack could not work."""
        return self.verdict == "fail"


def request_quota(quota: tuple[str, str], wanted: int, region: str) -> str:
    """The request to file, as a command."""
    service, code = quota
    return (
        f"aws service-quotas request-service-quota-increase --service-code {service} "
        f"--quota-code {code} --desired-value {wanted} --region {region}"
    )


def account_limits(
    client: Client,
    *,
    stage: str,
    region: str,
    values: Mapping[str, Any],
    regions_of: Callable[[str], list[str]],
) -> list[Limit]:
    """Ask for every limit that a stage meets; one that cannot be asked is a warning."""
    questions: list[tuple[str, Callable[[], Limit]]] = [
        ("region", lambda: region_limit(region, regions_of)),
        ("runtime", lambda: runtime_limit(client("lambda"), region)),
        ("concurrency", lambda: concurrency_limit(client("lambda"), stage, region, values)),
        ("kms", lambda: kms_limit(client("kms"), client("service-quotas"), stage, region)),
        ("ssm", lambda: ssm_limit(client("ssm"), stage, region)),
    ]
    if str(values.get("console", "true")).lower() == "true":
        questions.append(
            (
                "cloudfront",
                lambda: cloudfront_limit(client("cloudfront"), client("service-quotas"), stage),
            )
        )
    return [_asked(name, ask) for name, ask in questions]


def _asked(name: str, ask: Callable[[], Limit]) -> Limit:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return ask()
    except (ClientError, BotoCoreError) as error:
        return Limit(
            name,
            "warn",
            f"cannot be asked: {error}",
            "allow the deploying role to read it, or continue without this check",
        )


def region_limit(region: str, regions_of: Callable[[str], list[str]]) -> Limit:
    """Every service of the template is in the region, as botocore lists them."""
    missing = [name for name in SERVICES if region not in regions_of(name)]
    if missing:
        return Limit(
            "region",
            "fail",
            f"{region} has no {', '.join(missing)}",
            "deploy to a region that has all of it, as us-east-1 or eu-central-1: --region",
        )
    return Limit("region", "ok", f"{region} has every service of the stack")


def runtime_limit(client: Any, region: str) -> Limit:
    """The region's Lambda knows the runtime: it lists no layers of an unknown one."""
    try:
        client.list_layers(CompatibleRuntime=RUNTIME, CompatibleArchitecture="arm64", MaxItems=1)
    except client.exceptions.InvalidParameterValueException:
        return Limit(
            "runtime",
            "fail",
            f"Lambda in {region} does not know {RUNTIME} on arm64",
            "deploy to another region: --region",
        )
    return Limit("runtime", "ok", f"{RUNTIME} on arm64")


def concurrency_limit(client: Any, stage: str, region: str, values: Mapping[str, Any]) -> Limit:
    """What the stage reserves leaves enough, and its workers leave the API room."""
    account = client.get_account_settings()["AccountLimit"]
    limit, unreserved = account["ConcurrentExecutions"], account["UnreservedConcurrentExecutions"]
    more = request_quota(CONCURRENCY, USUAL_CONCURRENCY, region)
    wanted = _number(values, "workerReservedConcurrency")
    if wanted:
        kept = min(UNRESERVED, limit)
        free = unreserved + _held(client, stage) - kept
        if wanted > free:
            return Limit(
                "concurrency",
                "fail",
                f"this account runs {limit} functions at once in {region} and {kept} must stay "
                f"unreserved: of workerReservedConcurrency: {wanted} it can give {max(0, free)}",
                f"omit workerReservedConcurrency, or request more: {more}",
            )
        return Limit("concurrency", "ok", f"{wanted} of {limit} reserved for workers")
    workers = _number(values, "workersAtOnce") or WORKERS_AT_ONCE
    most = max(1, unreserved // 2)
    if workers > most:
        return Limit(
            "concurrency",
            "fail",
            f"{workers} workers at once of the {unreserved} functions that this account runs in "
            f"{region} leave the API too little: it would answer 503",
            f"workersAtOnce: '{most}' in the stage, or request more: {more}",
        )
    if limit < UNRESERVED:
        return Limit(
            "concurrency",
            "warn",
            f"this account runs {limit} functions at once in {region}; {workers} are workers'",
            f"enough to begin with; before real traffic: {more}",
        )
    return Limit("concurrency", "ok", f"{workers} workers of {unreserved} at once")


def _number(values: Mapping[str, Any], name: str) -> int:
    value = str(values.get(name))
    return int(value) if value.isdigit() else 0


def _held(client: Any, stage: str) -> int:
    """What the stage's worker has reserved already, which an update may use again."""
    try:
        found = client.get_function_concurrency(FunctionName=f"minutehand-{stage}-worker")
    except client.exceptions.ResourceNotFoundException:
        return 0
    return int(found.get("ReservedConcurrentExecutions") or 0)


def kms_limit(kms: Any, quotas: Any, stage: str, region: str) -> Limit:
    """There is room for the stage's key, unless it is there."""
    aliases = kms.get_paginator("list_aliases").paginate().build_full_result()["Aliases"]
    if any(alias["AliasName"] == f"alias/minutehand-{stage}" for alias in aliases):
        return Limit("kms", "ok", "the stage's key exists")
    made = len(kms.get_paginator("list_keys").paginate().build_full_result()["Keys"])
    most = _quota(quotas, KMS_KEYS)
    if made >= most:
        return Limit(
            "kms",
            "fail",
            f"{made} of {most} keys are made in {region}, and the stack makes one",
            request_quota(KMS_KEYS, most + 10, region),
        )
    return Limit("kms", "ok", f"{made} of {most} keys")


def ssm_limit(ssm: Any, stage: str, region: str) -> Limit:
    """There is room for a parameter per function, unless they are there."""
    made, ours = 0, 0
    for page in ssm.get_paginator("describe_parameters").paginate():
        made += len(page["Parameters"])
        ours += sum(p["Name"].startswith(f"/minutehand/{stage}/") for p in page["Parameters"])
    wanted = len(NEEDED) - ours
    if made + wanted > SSM_PARAMETERS:
        return Limit(
            "ssm",
            "fail",
            f"{made} of {SSM_PARAMETERS:,} standard parameters are used in {region}, "
            f"and the stage needs {wanted} more",
            f"delete what is old: aws ssm describe-parameters --region {region}",
        )
    return Limit("ssm", "ok", f"{made} of {SSM_PARAMETERS:,} parameters")


def cloudfront_limit(cloudfront: Any, quotas: Any, stage: str) -> Limit:
    """There is room for the console's distribution, and the account was ever allowed one."""
    pages = cloudfront.get_paginator("list_distributions").paginate().build_full_result()
    items = pages.get("DistributionList", {}).get("Items", [])
    if any(item.get("Comment", "").startswith(f"Minutehand {stage} ") for item in items):
        return Limit("cloudfront", "ok", "the console's distribution exists")
    most = _quota(quotas, DISTRIBUTIONS)
    if len(items) >= most:
        return Limit(
            "cloudfront",
            "fail",
            f"{len(items)} of {most} CloudFront distributions are made, and the console needs one",
            f"{request_quota(DISTRIBUTIONS, most + 10, 'us-east-1')}; or console: 'false'",
        )
    if not items:
        return Limit(
            "cloudfront",
            "warn",
            "this account has no CloudFront distribution, and AWS lets only verified accounts make "
            "one; no API lists which are",
            "if the stack fails with `must be verified`: a case in Support Center, Account and "
            "billing, CloudFront; meanwhile console: 'false' in the stage",
        )
    return Limit("cloudfront", "ok", f"{len(items)} of {most} distributions")


def _quota(quotas: Any, quota: tuple[str, str]) -> int:
    service, code = quota
    return int(quotas.get_service_quota(ServiceCode=service, QuotaCode=code)["Quota"]["Value"])


def too_long(values: Mapping[str, str], needs: Needs | None = None) -> dict[str, int]:
    """Functions whose secrets do not fit a standard parameter, with their characters."""
    sizes = {name: len(json.dumps(secrets_of(name, values, needs))) for name in NEEDED}
    return {name: size for name, size in sizes.items() if size > SSM_CHARACTERS}


#: What CloudFormation says of an account's limits, and what to do about it.
REASONS: tuple[tuple[str, str], ...] = (
    (
        "must be verified before you can add new CloudFront",
        "AWS has not verified this account for CloudFront: set console: 'false' in the stage and "
        "deploy again; open a case in Support Center, Account and billing, to have it later",
    ),
    (
        "UnreservedConcurrentExecution below its minimum",
        "remove workerReservedConcurrency from the stage, or request more concurrency: "
        "`minutehand doctor --stage` has the request",
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
