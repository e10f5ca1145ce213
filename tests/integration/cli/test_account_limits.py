"""What an account allows is asked before a stack is made; each planted limit is a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from minutehand.cli import deploy
from minutehand.cli.doctor.cloud import CHECKS
from minutehand.cli.doctor.command import run
from minutehand.cli.doctor.findings import Target, Verdict
from minutehand.deploy import limits
from minutehand.deploy.limits import Limit, account_limits
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.output import Output
from tests.support.aws_account import Account, aws_account

REGION = "us-east-1"
STAGE = {"console": "true", "workersAtOnce": ""}


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """A new account: ten at once, no CloudFront, nothing made."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with aws_account() as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        yield made


def looked_at(account: Account, region: str = REGION, **values: Any) -> dict[str, Limit]:
    def client(service: str) -> Any:
        return boto3.client(  # type: ignore[call-overload]
            service, region_name=REGION, endpoint_url=account.url
        )

    found = account_limits(
        client,
        stage="dev",
        region=region,
        values={**STAGE, **values},
        regions_of=boto3.Session().get_available_regions,
    )
    return {limit.name: limit for limit in found}


def test_a_new_account_is_enough_for_the_defaults(account: Account) -> None:
    """Ten at once and an unverified CloudFront are worth a word, and stop nothing."""
    found = looked_at(account)

    assert {name: limit.verdict for name, limit in found.items()} == {
        **dict.fromkeys(("region", "runtime", "kms", "ssm"), "ok"),
        **dict.fromkeys(("concurrency", "cloudfront"), "warn"),
    }
    assert not any(limit.stops for limit in found.values())
    assert found["runtime"].detail == "python3.13 on arm64"
    assert "runs 10 functions at once in us-east-1; 5 are workers'" in found["concurrency"].detail
    assert "--quota-code L-B99A9384 --desired-value 1000" in found["concurrency"].fix
    assert "Support Center" in found["cloudfront"].fix
    assert "GET" in {asked.split()[0] for asked in account.asked}
    assert not [asked for asked in account.asked if asked.startswith(("PUT", "DELETE"))]


@pytest.mark.parametrize(
    ("concurrency", "elsewhere", "wanted", "given"),
    [(10, 0, 10, 0), (50, 0, 1, 0), (1000, 0, 901, 900), (1000, 850, 60, 50)],
)
def test_a_reservation_the_account_cannot_give_is_refused_before_the_stack(
    account: Account, concurrency: int, elsewhere: int, wanted: int, given: int
) -> None:
    """CloudFormation finds out after minutes, and rolls all of it back."""
    account.concurrency, account.reserved_elsewhere = concurrency, elsewhere

    limit = looked_at(account, workerReservedConcurrency=wanted)["concurrency"]

    assert limit.stops
    assert f"runs {concurrency} functions at once" in limit.detail
    assert f"workerReservedConcurrency: {wanted} it can give {given}" in limit.detail
    assert "request-service-quota-increase" in limit.fix


@pytest.mark.parametrize(
    ("account_has", "values", "limit", "verdict", "words"),
    [
        # what AWS documents: all but a hundred
        ({"concurrency": 1000}, {"workerReservedConcurrency": 900}, "concurrency", "ok", ()),
        # an update may use its own reservation again, and no other stage's
        ({"concurrency": 1000, "reserved": {"minutehand-dev-worker": 900}},
         {"workerReservedConcurrency": 900}, "concurrency", "ok", ()),
        ({"concurrency": 1000, "reserved": {"minutehand-prod-worker": 900}},
         {"workerReservedConcurrency": 1}, "concurrency", "fail", ()),
        ({"concurrency": 100}, {}, "concurrency", "ok", ("5 workers of 100 at once",)),
        ({"concurrency": 99}, {}, "concurrency", "warn", ("runs 99 functions at once",)),
        ({"concurrency": 1}, {}, "concurrency", "fail", ("workersAtOnce: '1'",)),
        # what is no number is said elsewhere
        ({"concurrency": 100}, {"workersAtOnce": "many"}, "concurrency", "ok", ("5 workers",)),
        ({"concurrency": 100}, {"workersAtOnce": 50}, "concurrency", "ok", ("50 workers",)),
        ({"concurrency": 100}, {"workersAtOnce": 51}, "concurrency", "fail", ("'50'",)),
        # half is theirs at most
        ({}, {"workersAtOnce": "8"}, "concurrency", "fail",
         ("8 workers at once of the 10", "workersAtOnce: '5'")),
        # not every region has Scheduler, and the byte code is of one Python
        ({}, {"region": "us-gov-nowhere-1"}, "region", "fail", ("scheduler",)),
        ({"runtimes": ("python3.12",)}, {}, "runtime", "fail",
         ("does not know python3.13", "--region")),
        # a deploying role need not read quotas
        ({"refuses": ("account-settings",)}, {}, "concurrency", "warn", ("cannot be asked",)),
    ],
)  # fmt: skip
def test_what_the_account_has_decides_over_a_reservation_and_workers(
    account: Account,
    account_has: dict[str, Any],
    values: dict[str, Any],
    limit: str,
    verdict: str,
    words: tuple[str, ...],
) -> None:
    """Found before a stack is made, that would be rolled back."""
    for name, value in account_has.items():
        setattr(account, name, value)

    found = looked_at(account, **values)[limit]

    assert found.verdict == verdict
    assert [word for word in words if word not in f"{found.detail} {found.fix}"] == []


def test_a_full_kms_and_a_full_cloudfront_are_refused(account: Account) -> None:
    """With how many there are, and the request."""
    client = boto3.client("kms", region_name=REGION, endpoint_url=account.url)
    client.create_key()
    made = len(client.list_keys()["Keys"])
    account.quotas |= {"L-C2F1777E": float(made), "L-24B04930": 0.0}

    found = looked_at(account)

    assert found["kms"].stops
    assert f"{made} of {made} keys" in found["kms"].detail
    assert "L-C2F1777E" in found["kms"].fix
    assert f"--desired-value {made + 10}" in found["kms"].fix
    assert found["cloudfront"].stops
    assert "of 0 CloudFront" in found["cloudfront"].detail
    assert found["cloudfront"].fix.endswith(
        "--desired-value 10 --region us-east-1; or console: 'false'"
    )
    for off in ("false", False):
        assert "cloudfront" not in looked_at(account, console=off)
    assert "cloudfront" in looked_at(account, console=True)


def test_a_full_parameter_store_is_refused(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each function has one."""
    monkeypatch.setattr(limits, "SSM_PARAMETERS", 3)
    store = boto3.client("ssm", region_name=REGION, endpoint_url=account.url)
    for made in store.describe_parameters()["Parameters"]:  # of other tests of this process
        store.delete_parameter(Name=made["Name"])

    limit = looked_at(account)["ssm"]

    assert limit.stops
    assert "needs 4 more" in limit.detail
    for name in ("dev/jobs", "dev/status", "dev-2/jobs"):
        store.put_parameter(Name=f"/minutehand/{name}", Value="{}", Type="SecureString")
    monkeypatch.setattr(limits, "SSM_PARAMETERS", 4)
    assert "needs 2 more" in looked_at(account)["ssm"].detail
    monkeypatch.setattr(limits, "SSM_PARAMETERS", 5)
    assert looked_at(account)["ssm"].verdict == "ok"


class Listed:
    """An AWS service, as far as its lists; each quota is two."""

    def __init__(self, **found: Any) -> None:
        self.found = found

    def get_paginator(self, name: str) -> Listed:
        """One for all lists."""
        return self

    def paginate(self) -> Listed:
        """All on one page."""
        return self

    def build_full_result(self) -> dict[str, Any]:
        """What there is."""
        return self.found

    def get_service_quota(self, ServiceCode: str, QuotaCode: str) -> dict[str, Any]:
        """Two of anything."""
        return {"Quota": {"Value": 2.0}}


@pytest.mark.parametrize(
    ("mine", "others", "key", "distribution"),
    [
        (0, 0, "ok", "warn"),
        (0, 1, "ok", "ok"),
        (0, 2, "fail", "fail"),
        # an update makes none
        (1, 1, "ok", "ok"),
    ],
)
def test_a_stage_needs_one_key_and_one_distribution(
    mine: int, others: int, key: str, distribution: str
) -> None:
    """Those of another stage, whose name begins alike, are not its own."""
    stages = ["dev"] * mine + ["dev-2"] * others
    kms = Listed(
        Aliases=[{"AliasName": f"alias/minutehand-{stage}"} for stage in stages], Keys=stages
    )
    items = [{"Comment": f"Minutehand {stage} console"} for stage in stages]
    cloudfront = Listed(DistributionList={"Items": items})

    assert limits.kms_limit(kms, Listed(), "dev", REGION).verdict == key
    assert limits.cloudfront_limit(cloudfront, Listed(), "dev").verdict == distribution


def test_doctor_and_deploy_say_the_same(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before the stack is made, the other at any time."""
    values = deploy.parameters("dev") | {"workerReservedConcurrency": 10}
    monkeypatch.setattr(deploy, "parameters", lambda stage, project=None: values)
    [check] = [check for check in CHECKS if check.name == "account-limits"]

    finding = run(check, Target({"AWS_ENDPOINT_URL": account.url}, "dev"))
    plan = deploy.Plan("dev", REGION, {}, account.url)
    with pytest.raises(CommandFailed) as caught:
        deploy.check_limits(plan, Output(as_json=True))

    assert finding.verdict is Verdict.FAIL
    assert caught.value.code == "account_limit"
    assert str(caught.value) == finding.detail
    assert caught.value.fix == finding.fix
    assert "all" not in finding.detail or "10 must stay unreserved" in finding.detail


def test_a_warning_is_shown_and_the_deploy_continues(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the request to file."""
    deploy.check_limits(deploy.Plan("dev", REGION, {}, account.url), Output())

    said = " ".join(capsys.readouterr().err.split())
    assert "runs 10 functions at once" in said
    assert "--desired-value 1000" in said


def test_secrets_that_ssm_does_not_take_are_named() -> None:
    """4,096 characters are a standard parameter."""
    secrets = {
        "WORKER_SECRET_TOKEN": "w" * 40,
        "BACKGROUND_JOB_TOKEN": "b" * 40,
        "SUPABASE_WORKER_KEY": "a.b.c",
        "SUPABASE_JWKS": "k" * 5000,
    }
    with pytest.raises(CommandFailed, match=r"5,\d+ characters, SSM takes 4,096") as caught:
        deploy.check_secrets(deploy.Plan("dev", REGION, secrets))

    assert caught.value.code == "secrets_too_long"


def test_a_parameter_holds_4096_characters() -> None:
    """As SSM counts them: of the JSON that is written."""
    room = 4096 - len(json.dumps({"SUPABASE_JWKS": ""}))

    assert limits.too_long({"SUPABASE_JWKS": "k" * room}) == {}
    assert limits.too_long({"SUPABASE_JWKS": "k" * (room + 1)}) == {"jobs": 4097, "status": 4097}


@pytest.mark.parametrize(
    "service",
    ["apigatewayv2", "cloudformation", "kms", "lambda", "scheduler", "sns", "sqs", "ssm"],
)
def test_a_region_without_one_of_the_services_is_refused(service: str) -> None:
    """By the service's name, with what to do."""
    found = limits.region_limit("here", lambda name: [] if name == service else ["here"])

    assert (found.verdict, found.detail) == ("fail", f"here has no {service}")
    assert "--region" in found.fix
    assert limits.region_limit("here", lambda name: ["here"]).verdict == "ok"


def test_a_quota_is_asked_for_in_one_command() -> None:
    """To be pasted as it is."""
    assert limits.request_quota(("kms", "L-1"), 12, "here") == (
        "aws service-quotas request-service-quota-increase --service-code kms"
        " --quota-code L-1 --desired-value 12 --region here"
    )
    assert (limits.CONCURRENCY, limits.KMS_KEYS, limits.DISTRIBUTIONS) == (
        ("lambda", "L-B99A9384"), ("kms", "L-C2F1777E"), ("cloudfront", "L-24B04930"),
    )  # fmt: skip
    assert limits.SSM_PARAMETERS == 10_000


def test_what_cannot_be_asked_stops_nothing() -> None:
    """Neither a refusal nor a network that is away."""

    def client(service: str) -> Any:
        raise EndpointConnectionError(endpoint_url=service)

    found = account_limits(
        client, stage="dev", region="here", values={}, regions_of=lambda name: ["here"]
    )

    assert [limit.name for limit in found] == [
        "region", "runtime", "concurrency", "kms", "ssm", "cloudfront",
    ]  # fmt: skip
    for limit in found[1:]:
        assert (limit.verdict, limit.stops) == ("warn", False)
        assert limit.detail.startswith("cannot be asked: ")
        assert "continue without this check" in limit.fix


class Events:
    """CloudFormation, as far as its events."""

    def __init__(self, *reasons: tuple[str, str, str]) -> None:
        self.events = [
            {"LogicalResourceId": name, "ResourceStatus": status, "ResourceStatusReason": reason}
            for name, status, reason in reasons
        ]

    def describe_stack_events(self, StackName: str) -> dict[str, Any]:
        """Newest first."""
        return {"StackEvents": self.events}


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("must be verified before you can add new CloudFront resources", "console: 'false'"),
        ("UnreservedConcurrentExecution below its minimum value", "remove workerReserved"),
        ("minutehand-dev-worker already exists", "import it into this stack"),
    ],
)
def test_a_refusal_that_is_known_says_what_to_do(reason: str, fix: str) -> None:
    """CloudFormation says only what it could not do."""
    explained = limits.explain_failure(Events(("Jobs", "UPDATE_FAILED", reason)), "s")

    assert explained is not None
    assert explained[0] == f"Jobs: {reason}"
    assert fix in explained[1]


def test_a_stack_without_events_explains_nothing() -> None:
    """It was never made, or its first event has no word."""

    class NoStack:
        def describe_stack_events(self, StackName: str) -> dict[str, Any]:
            raise ClientError({"Error": {"Code": "ValidationError"}}, "DescribeStackEvents")

    wordless = Events(("Jobs", "CREATE_FAILED", ""), ("Odd", "", ""))
    for event in wordless.events:
        del event["ResourceStatusReason"]
    del wordless.events[1]["ResourceStatus"]

    assert limits.explain_failure(NoStack(), "s") is None
    assert limits.explain_failure(wordless, "s") == ("Jobs: ", "")


def test_a_failed_stack_is_explained_by_its_first_refusal() -> None:
    """CloudFront's word comes after minutes, among dozens of cancelled resources."""
    refused = (
        "Resource handler returned message: Access denied for operation 'AWS::CloudFront::"
        "Distribution: Your account must be verified before you can add new CloudFront resources.'"
    )
    explained = limits.explain_failure(
        Events(
            ("minutehand-dev", "ROLLBACK_COMPLETE", ""),
            ("Worker", "DELETE_FAILED", "The role is still in use"),
            ("Jobs", "CREATE_FAILED", "Resource creation cancelled"),
            ("Console", "CREATE_FAILED", refused),
            ("Console", "CREATE_IN_PROGRESS", ""),
        ),
        "minutehand-dev",
    )

    assert explained is not None
    assert explained[0].startswith("Console: ")
    assert "console: 'false'" in explained[1]
    quiet = Events(("minutehand-dev", "CREATE_COMPLETE", ""))
    assert limits.explain_failure(quiet, "minutehand-dev") is None
    other = Events(
        ("Queue", "CREATE_FAILED", "Some other reason"),
        ("Jobs", "CREATE_FAILED", "Resource creation cancelled"),  # of the same moment
    )
    assert limits.explain_failure(other, "minutehand-dev") == ("Queue: Some other reason", "")
