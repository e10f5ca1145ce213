"""The deploy as osls does it, against moto: bucket first, upload, then the whole stack.

moto's CloudFormation knows 10 of our resource types. Those come up through it. Schedule, alarms and
the asynchronous settings are made through their own services' APIs from the same properties, whose
names and types botocore checks. API Gateway v2, CloudFront, bucket and queue policies, the mail
subscription and the budget are not brought up here: cfn-lint checks them against AWS's schemas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from minutehand.deploy.package import TEMPLATE
from minutehand.local.lambda_functions import EMPTY_ZIP
from tests.artefact.stack import BY_THEIR_OWN_API, FUNCTIONS, NOT_IN_MOTO, Stack
from tests.support.cloudformation import for_moto, known_to_moto

ACCOUNT = "123456789012"


class Deployed:
    """A stack that moto brought up, with clients to look at it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.name = f"minutehand-{stack.stage}"
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(  # type: ignore[call-overload]
                service,
                region_name="us-east-1",
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
        return self._clients[service]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def deploy(self) -> None:
        """Bucket, upload, everything: the three steps of `osls deploy`."""
        cloudformation = self.client("cloudformation")
        first = json.loads(
            (self.stack.folder / "cloudformation-template-create-stack.json").read_text()
        )
        cloudformation.create_stack(StackName=self.name, TemplateBody=json.dumps(for_moto(first)))
        bucket = self.physical("ServerlessDeploymentBucket")
        for name in FUNCTIONS:
            key = self.stack.function(name)["Code"]["S3Key"]
            self.client("s3").put_object(Bucket=bucket, Key=key, Body=EMPTY_ZIP)
        cloudformation.update_stack(
            StackName=self.name,
            TemplateBody=json.dumps(for_moto(self.stack.template)),
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )

    def physical(self, logical: str) -> str:
        """The physical id of a resource that CloudFormation made."""
        detail = self.client("cloudformation").describe_stack_resource(
            StackName=self.name, LogicalResourceId=logical
        )
        return str(detail["StackResourceDetail"]["PhysicalResourceId"])

    def resolve(self, value: Any) -> Any:
        """References in the properties of a resource made through its own API."""
        match value:
            case {"Ref": "TickGroup"}:
                return self.stack.one("AWS::Scheduler::ScheduleGroup")["Name"]
            case {"Ref": logical}:
                return "HttpApi" if logical == "HttpApi" else self.physical(logical)
            case {"Fn::GetAtt": [logical, "Arn"]} if logical.endswith("LambdaFunction"):
                return f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:{self.physical(logical)}"
            case {"Fn::GetAtt": [logical, "Arn"]} if logical.endswith("Role"):
                return f"arn:aws:iam::{ACCOUNT}:role/{self.physical(logical)}"
            case {"Fn::GetAtt": [logical, _]}:
                queue = self.stack.resources[logical]["Properties"]["QueueName"]
                is_arn = value["Fn::GetAtt"][1] == "Arn"
                return f"arn:aws:sqs:us-east-1:{ACCOUNT}:{queue}" if is_arn else queue
            case dict():
                return {key: self.resolve(item) for key, item in value.items()}
            case list():
                return [self.resolve(item) for item in value]
            case _:
                return value


@pytest.fixture(scope="module", params=["dev", "prod"])
def deployed(request: pytest.FixtureRequest, stacks: dict[str, Stack]) -> Iterator[Deployed]:
    """Each stage, brought up once."""
    from moto import mock_aws

    with mock_aws():
        made = Deployed(stacks[request.param])
        made.deploy()
        yield made
        made.close()


def test_what_moto_cannot_make_is_known(stacks: dict[str, Stack]) -> None:
    """When moto learns a type, its resources should come up here too."""
    types = {resource["Type"] for resource in stacks["prod"].resources.values()}

    assert types - known_to_moto() == NOT_IN_MOTO | BY_THEIR_OWN_API


def test_cloudformation_brings_up_every_resource_it_knows(deployed: Deployed) -> None:
    """A dangling reference or a wrong order would leave one out."""
    description = deployed.client("cloudformation")
    [stack] = description.describe_stacks(StackName=deployed.name)["Stacks"]
    made = description.describe_stack_resources(StackName=deployed.name)["StackResources"]
    expected = {
        name
        for name, resource in deployed.stack.resources.items()
        if resource["Type"] in known_to_moto()
    }

    assert stack["StackStatus"] == "UPDATE_COMPLETE"
    assert {resource["LogicalResourceId"] for resource in made} == expected


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_comes_up_with_its_settings(deployed: Deployed, name: str) -> None:
    """Role, memory and references are resolved, not text."""
    stage = deployed.stack.stage
    found = deployed.client("lambda").get_function_configuration(
        FunctionName=f"minutehand-{stage}-{name}"
    )

    assert found["Runtime"] == "python3.13"
    assert found["Role"].endswith(f"role/minutehand-{stage}-us-east-1-{name}")
    assert found["Environment"]["Variables"]["SECRETS_PARAMETER"] == f"/minutehand/{stage}/{name}"
    if name in {"jobs", "worker"}:
        variables = found["Environment"]["Variables"]
        assert variables["UPLOADS_BUCKET"] == deployed.physical("UploadsBucket")
        assert variables["KMS_KEY_ID"].startswith("arn:aws:kms:us-east-1:")
        assert variables["WORKER_FUNCTION_NAME"] == f"minutehand-{stage}-worker"


def test_the_key_rotates_and_has_its_alias(deployed: Deployed) -> None:
    """People and scripts find it by stage."""
    kms = deployed.client("kms")
    aliases = {alias["AliasName"]: alias["TargetKeyId"] for alias in kms.list_aliases()["Aliases"]}
    key = aliases[f"alias/minutehand-{deployed.stack.stage}"]

    assert kms.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"] is True


def test_the_buckets_are_closed(deployed: Deployed) -> None:
    """As a caller sees it, not as the template says it."""
    s3 = deployed.client("s3")
    bucket = deployed.physical("UploadsBucket")

    rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"


def test_the_queues_keep_failures(deployed: Deployed) -> None:
    """The schedule's long enough for a holiday; those of a busy worker are a record, and go."""
    sqs = deployed.client("sqs")
    stage = deployed.stack.stage
    for kind, seconds in (("worker", "259200"), ("tick", "1209600")):
        name = f"minutehand-{stage}-{kind}-failures"
        url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert attributes["MessageRetentionPeriod"] == seconds


def test_the_schedule_is_accepted_by_its_service(deployed: Deployed) -> None:
    """Botocore refuses a misspelt or misplaced property."""
    scheduler = deployed.client("scheduler")
    group = deployed.stack.one("AWS::Scheduler::ScheduleGroup")
    scheduler.create_schedule_group(Name=group["Name"], Tags=group["Tags"])
    scheduler.create_schedule(**deployed.resolve(deployed.stack.one("AWS::Scheduler::Schedule")))

    found = scheduler.get_schedule(
        Name=f"minutehand-{deployed.stack.stage}-tick", GroupName=group["Name"]
    )
    assert found["State"] == "ENABLED"
    assert found["Target"]["Arn"].endswith(f":function:minutehand-{deployed.stack.stage}-worker")
    assert found["Target"]["DeadLetterConfig"]["Arn"].endswith("tick-failures")


def test_every_alarm_is_accepted_by_its_service(deployed: Deployed) -> None:
    """Comparison, statistic and dimensions are checked by botocore against CloudWatch's model."""
    cloudwatch = deployed.client("cloudwatch")
    alarms = deployed.stack.of_type("AWS::CloudWatch::Alarm")
    for properties in alarms.values():
        cloudwatch.put_metric_alarm(**deployed.resolve(properties))

    found = cloudwatch.get_paginator("describe_alarms").paginate().build_full_result()
    assert len(found["MetricAlarms"]) == len(alarms)
    for alarm in found["MetricAlarms"]:
        assert alarm["AlarmActions"] == [deployed.physical("Alerts")]


def test_the_asynchronous_settings_are_accepted_by_lambda(deployed: Deployed) -> None:
    """No retries, one minute, failures to the queue."""
    properties = deployed.resolve(deployed.stack.one("AWS::Lambda::EventInvokeConfig"))
    found = deployed.client("lambda").put_function_event_invoke_config(**properties)

    assert found["MaximumRetryAttempts"] == 0
    assert found["DestinationConfig"]["OnFailure"]["Destination"].endswith("worker-failures")


def test_the_template_fits_cloudformations_limits(deployed: Deployed) -> None:
    """500 resources, 1 MB by way of a bucket."""
    text = (deployed.stack.folder / TEMPLATE).read_text()

    assert len(deployed.stack.resources) < 500
    assert len(text.encode()) < 1_000_000
