"""An AWS account for `minutehand deploy`: moto, and the parts of AWS that moto lacks."""

import io
import json
import re
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import boto3
import httpx

from minutehand.local.aws import App, MotoServer, Start

#: moto would validate templates with another version of cfn-lint. tests/artefact uses the pinned
#: version.
VALID = (
    '<ValidateTemplateResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/">'
    "<ValidateTemplateResult><Parameters/></ValidateTemplateResult></ValidateTemplateResponse>"
)


class Account:
    """A new account until it is closed, with a record of its requests and invoked functions.

    Args:
        run: Called with a function's name and an event, returns the response. Without it, no
        function runs.
    """

    def __init__(self, run: Callable[[str, Any], Any] | None = None) -> None:
        self.asked: list[str] = []
        self.invoked: list[str] = []
        self._run = run or (lambda name, event: {})
        self._server = MotoServer(0, self._before)
        self._server.start()
        self.url = self._server.url

    def close(self) -> None:
        """Delete all resources, which moto keeps in the process, and stop the server."""
        httpx.post(f"{self.url}/moto-api/reset", trust_env=False).raise_for_status()
        self._server.stop()

    def _before(self, moto: App) -> App:
        def serve(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            self.asked.append(f"{environ['REQUEST_METHOD']} {path}")
            body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            if path.rstrip("/") == "/2016-08-19/account-settings":
                limit = {"ConcurrentExecutions": 10, "UnreservedConcurrentExecutions": 10}
                return _answer(start, {"AccountLimit": limit, "AccountUsage": {"FunctionCount": 0}})
            if path.endswith("/invocations"):
                return self._invoke(path.split("/")[3], environ, body, start)
            if path == "/" and b"Action=ValidateTemplate" in body:
                return _answer(start, VALID, "text/xml")
            if path == "/" and re.search(rb"Action=(DescribeStacks|DeleteStack)\b", body):
                show_outputs()
            is_template = path.endswith("/compiled-cloudformation-template.json")
            if is_template and environ["REQUEST_METHOD"] == "PUT":
                body = for_moto(json.loads(body)).encode()
            environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
            return moto(environ, start)

        return serve

    def client(self, service: str) -> Any:
        """Return a boto3 client of the account."""
        about: Any = {"region_name": "us-east-1", "endpoint_url": self.url}
        return boto3.client(service, **about)  # type: ignore[call-overload]

    def holdings(self) -> list[str]:
        """Return all AWS resources that exist, by kind. Deleted keys are left out."""
        keys = [
            f"{key['Description']} {key['KeyId']}"
            for each in self.client("kms").list_keys()["Keys"]
            if (key := self.client("kms").describe_key(KeyId=each["KeyId"])["KeyMetadata"])[
                "Enabled"
            ]
        ]
        found = {
            "stack": self._named("cloudformation", "describe_stacks", "Stacks", "StackName"),
            "key": keys,
            "function": self._named("lambda", "list_functions", "Functions", "FunctionName"),
            "role": self._named("iam", "list_roles", "Roles", "RoleName"),
            "queue": self.client("sqs").list_queues().get("QueueUrls", []),
            "topic": self._named("sns", "list_topics", "Topics", "TopicArn"),
            "log": self._named("logs", "describe_log_groups", "logGroups", "logGroupName"),
            "bucket": self._named("s3", "list_buckets", "Buckets", "Name"),
            "secrets": self._named("ssm", "describe_parameters", "Parameters", "Name"),
        }
        return sorted(f"{kind} {name}" for kind, names in found.items() for name in names)

    def _named(self, service: str, call: str, list_: str, name: str) -> list[str]:
        return [each[name] for each in getattr(self.client(service), call)()[list_]]

    def _invoke(
        self, name: str, environ: dict[str, Any], body: bytes, start: Start
    ) -> Iterable[bytes]:
        self.invoked.append(name)
        event = json.loads(body or b"{}")
        if environ.get("HTTP_X_AMZ_INVOCATION_TYPE") == "Event":

            def run() -> None:
                with suppress(RuntimeError):  # only logs show that such an invocation failed
                    self._run(name, event)

            threading.Thread(target=run, daemon=True).start()
            return _answer(start, {}, status="202 Accepted")
        try:
            return _answer(start, self._run(name, event))
        except RuntimeError as error:
            return _answer(start, str(error), failed=[("x-amz-function-error", "Unhandled")])


def _answer(
    start: Start,
    body: Any,
    kind: str = "application/json",
    *,
    status: str = "200 OK",
    failed: Iterable[tuple[str, str]] = (),
) -> Iterable[bytes]:
    start(status, [("content-type", kind), *failed])
    return [(body if isinstance(body, str) else json.dumps(body)).encode()]


def show_outputs() -> None:
    """Update the outputs of all stacks from their newest templates, which moto does not do."""
    from moto.cloudformation.models import cloudformation_backends

    for account in cloudformation_backends.values():
        for backend in account.values():
            for stack in backend.stacks.values():
                stack._parse_template()
                stack.output_map = stack._create_output_map()
                backend.exports |= {each.name: each for each in stack.exports}


def for_moto(template: dict[str, Any]) -> str:
    """Return the template with only the resources that moto can create."""
    # This import takes seconds, so only processes that need it run it.
    from moto.cloudformation.parsing import get_model_map

    makes = get_model_map()
    resources = template["Resources"]
    unknown = [name for name, each in resources.items() if each["Type"] not in makes]
    known = {name: dict(each) for name, each in resources.items() if name not in unknown}
    for resource in known.values():
        resource.pop("DependsOn", None)  # references already order the resources
        if resource.get("DeletionPolicy") == "RetainExceptOnCreate":  # a newer keyword
            resource["DeletionPolicy"] = "Retain"
        if resource["Type"] == "AWS::KMS::Key":  # moto reads a policy only as text
            policy = json.dumps(resource["Properties"]["KeyPolicy"])
            resource["Properties"] = {**resource["Properties"], "KeyPolicy": policy}
    text = json.dumps(template | {"Resources": known})
    names = "|".join(unknown)
    text = re.sub(rf'\{{"(?:Ref|Fn::GetAtt)": \[?"({names})"[^}}]*\}}', r'"\1"', text)
    return re.sub(rf"\$\{{({names})(\.\w+)?\}}", r"\1", text)
