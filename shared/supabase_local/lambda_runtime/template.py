"""The compiled CloudFormation, read back as what to run: functions, routes, CORS, the schedule.

So the emulation follows the artefact that would be deployed, not a second description of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supabase_local.lambda_runtime.function import FunctionConfig
from supabase_local.lambda_runtime.gateway import Cors, Route
from supabase_local.lambda_runtime.server import Schedule

DEFAULT_CAP = 10
#: Of the template's environment, what is as true here as there.
KEPT = ("WORKER_FUNCTION_NAME", "SECRETS_PARAMETER")
#: What the template says unless the environment says otherwise.
DEFAULTS = ("EXTRA_WORKERS", "WORKERS_AT_ONCE")


@dataclass(frozen=True)
class Service:
    """Everything a template says that this emulation can do."""

    functions: tuple[FunctionConfig, ...]
    routes: tuple[Route, ...]
    cors: Cors
    schedule: Schedule | None


def read_service(
    template: Path,
    *,
    task_roots: Mapping[str, Path],
    variables: Mapping[str, str],
    isolated: bool = False,
    python_path: tuple[Path, ...] = (),
    origins: tuple[str, ...] = (),
    cap: int = DEFAULT_CAP,
) -> Service:
    """Read a template that osls compiled.

    Args:
        task_roots: Where each function's code lies, by the last word of its name (`worker`).
        variables: The environment of every function; the template's own values for a deployed
            project would point away from this machine, so only names of functions are kept.
        origins: Who may call from a browser, instead of the template's origins.
        cap: Environments of a function without reserved concurrency.
    """
    resources: dict[str, Any] = json.loads(template.read_text("utf-8"))["Resources"]
    names = {
        logical: str(resource["Properties"]["FunctionName"])
        for logical, resource in resources.items()
        if resource["Type"] == "AWS::Lambda::Function"
    }
    functions = tuple(
        _function(logical, resources, task_roots, variables, isolated, python_path, cap)
        for logical in names
    )
    api = next(r["Properties"] for r in resources.values() if r["Type"] == "AWS::ApiGatewayV2::Api")
    return Service(
        functions=functions,
        routes=tuple(_routes(resources, names)),
        cors=_cors(api.get("CorsConfiguration", {}), origins),
        schedule=_schedule(resources, names),
    )


def _function(
    logical: str,
    resources: Mapping[str, Any],
    task_roots: Mapping[str, Path],
    variables: Mapping[str, str],
    isolated: bool,
    python_path: tuple[Path, ...],
    cap: int,
) -> FunctionConfig:
    properties = resources[logical]["Properties"]
    name = properties["FunctionName"]
    own = properties.get("Environment", {}).get("Variables", {})
    kept = {key: own[key] for key in KEPT if isinstance(own.get(key), str)}
    defaults = {key: own[key] for key in DEFAULTS if isinstance(own.get(key), str)}
    event: dict[str, Any] = next(
        (
            resource["Properties"]
            for resource in resources.values()
            if resource["Type"] == "AWS::Lambda::EventInvokeConfig"
            and resource["Properties"]["FunctionName"] == {"Ref": logical}
        ),
        {},
    )
    destination = event.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination", {})
    return FunctionConfig(
        name=name,
        handler=properties["Handler"],
        task_root=task_roots[name.rsplit("-", 1)[-1]],
        timeout=float(properties["Timeout"]),
        memory_mb=int(properties["MemorySize"]),
        max_concurrency=int(properties.get("ReservedConcurrentExecutions", cap)),
        reserved="ReservedConcurrentExecutions" in properties,
        variables={**defaults, **variables, **kept},
        max_retries=int(event.get("MaximumRetryAttempts", 2)),
        max_event_age=float(event.get("MaximumEventAgeInSeconds", 6 * 3600)),
        on_failure=_queue_arn(destination, resources),
        isolated=isolated,
        python_path=python_path,
    )


def _queue_arn(destination: Any, resources: Mapping[str, Any]) -> str | None:
    match destination:
        case {"Fn::GetAtt": [logical, "Arn"]}:
            name = resources[logical]["Properties"]["QueueName"]
            return f"arn:aws:sqs:us-east-1:123456789012:{name}"
        case str() as arn:
            return arn
        case _:
            return None


def _routes(resources: Mapping[str, Any], names: Mapping[str, str]) -> list[Route]:
    integrations = {
        logical: _referenced(resource["Properties"]["IntegrationUri"], names)
        for logical, resource in resources.items()
        if resource["Type"] == "AWS::ApiGatewayV2::Integration"
    }
    return [
        Route(
            resource["Properties"]["RouteKey"],
            integrations[resource["Properties"]["Target"]["Fn::Join"][1][1]["Ref"]],
        )
        for resource in resources.values()
        if resource["Type"] == "AWS::ApiGatewayV2::Route"
    ]


def _referenced(uri: Any, names: Mapping[str, str]) -> str:
    return names[uri["Fn::GetAtt"][0]]


def _cors(settings: Mapping[str, Any], origins: tuple[str, ...]) -> Cors:
    return Cors(
        origins=origins or tuple(settings.get("AllowOrigins", ())),
        methods=tuple(settings.get("AllowMethods", ())),
        headers=tuple(settings.get("AllowHeaders", ())),
        exposed=tuple(settings.get("ExposeHeaders", ())),
        max_age=int(settings.get("MaxAge", 0)),
    )


def _schedule(resources: Mapping[str, Any], names: Mapping[str, str]) -> Schedule | None:
    for resource in resources.values():
        if resource["Type"] == "AWS::Scheduler::Schedule":
            target = resource["Properties"]["Target"]
            return Schedule(names[target["Arn"]["Fn::GetAtt"][0]], target["Input"])
    return None
