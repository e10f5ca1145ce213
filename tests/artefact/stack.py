"""The compiled stack as tests read it: resources by type, roles as allow-lists."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FUNCTIONS = ("jobs", "status", "worker", "health")

#: Checked by cfn-lint against AWS's schemas only, see test_deploy.py.
NOT_IN_MOTO = {
    "AWS::ApiGatewayV2::Api",
    "AWS::ApiGatewayV2::Integration",
    "AWS::ApiGatewayV2::Route",
    "AWS::ApiGatewayV2::Stage",
    "AWS::Budgets::Budget",
    "AWS::CloudFront::Distribution",
    "AWS::CloudFront::Function",
    "AWS::CloudFront::OriginAccessControl",
    "AWS::CloudFront::ResponseHeadersPolicy",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SQS::QueuePolicy",
}
#: Made in moto through their own services.
BY_THEIR_OWN_API = {
    "AWS::CloudWatch::Alarm",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Scheduler::Schedule",
    "AWS::Scheduler::ScheduleGroup",
}


@dataclass(frozen=True)
class Stack:
    """A template that osls compiled for one stage."""

    stage: str
    folder: Path
    template: dict[str, Any]

    @property
    def resources(self) -> dict[str, Any]:
        """Every resource by logical id."""
        resources: dict[str, Any] = self.template["Resources"]
        return resources

    def of_type(self, kind: str) -> dict[str, Any]:
        """Properties of the resources of a type, by logical id."""
        return {
            name: resource.get("Properties", {})
            for name, resource in self.resources.items()
            if resource["Type"] == kind
        }

    def one(self, kind: str) -> dict[str, Any]:
        """The properties of the only resource of a type; the test may change them."""
        [properties] = self.of_type(kind).values()
        return dict(deepcopy(properties))

    def function(self, name: str) -> dict[str, Any]:
        """The properties of a function."""
        return dict(deepcopy(self.resources[f"{name.capitalize()}LambdaFunction"]["Properties"]))

    def role(self, name: str) -> set[tuple[str, str, str]]:
        """A role's rights as (action, resource, condition), intrinsic functions written flat."""
        rights: set[tuple[str, str, str]] = set()
        own = self.resources[f"{name.capitalize()}Role"]["Properties"]["Policies"]
        of_apps = self.resources.get(f"{name.capitalize()}PolicyOfApps")
        if of_apps:
            assert of_apps["Properties"]["Roles"] == [{"Ref": f"{name.capitalize()}Role"}]
        for policy in (*own, *([of_apps["Properties"]] if of_apps else [])):
            for statement in policy["PolicyDocument"]["Statement"]:
                assert statement["Effect"] == "Allow"
                condition = flat(statement.get("Condition", {}))
                for action in as_list(statement["Action"]):
                    for resource in as_list(statement["Resource"]):
                        rights.add((action, flat(resource), condition))
        return rights


def as_list(value: Any) -> list[Any]:
    """One or many, as IAM allows both."""
    return value if isinstance(value, list) else [value]


def flat(value: Any) -> str:
    """An intrinsic function as the one line that says the same."""
    match value:
        case {"Ref": name}:
            return f"<{name}>"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"<{name}.{attribute}>"
        case {"Fn::Sub": str() as text}:
            account = "${AWS::Partition}:", "${AWS::Region}:${AWS::AccountId}:"
            return text.replace(account[0], "aws:").replace(account[1], "here:")
        case {} if not value:
            return ""
        case dict():
            return json.dumps({key: flat(item) for key, item in value.items()}, sort_keys=True)
        case _:
            return str(value)
