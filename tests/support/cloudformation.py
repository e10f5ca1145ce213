"""A compiled template as far as moto's CloudFormation can make it."""

from __future__ import annotations

import re
from typing import Any


def known_to_moto() -> set[str]:
    """The types it can make; imported here, it costs no other test process its seconds."""
    from moto.cloudformation.parsing import get_model_map

    return set(get_model_map())


def show_outputs() -> None:
    """Let every stack answer with its newest template's outputs.

    moto's change sets make the resources and leave the outputs of the template before.
    """
    from moto.cloudformation.models import cloudformation_backends

    for account in cloudformation_backends.values():
        for backend in account.values():
            for stack in backend.stacks.values():
                stack._parse_template()
                stack.output_map = stack._create_output_map()


def for_moto(template: dict[str, Any]) -> dict[str, Any]:
    """The resources moto can make; references to the others become their names."""
    resources = template["Resources"]
    known = {
        name: dict(resource)
        for name, resource in resources.items()
        if resource["Type"] in known_to_moto()
    }
    for resource in known.values():
        depends = resource.pop("DependsOn", [])
        depends = [depends] if isinstance(depends, str) else depends
        if kept := [name for name in depends if name in known]:
            resource["DependsOn"] = kept
        if resource["Type"] == "AWS::KMS::Key":  # moto's KMS trips over Key/Value tags
            properties = resource["Properties"].items()
            resource["Properties"] = {k: v for k, v in properties if k != "Tags"}
    unknown = set(resources) - set(known)
    return {
        "Conditions": template.get("Conditions", {}),
        "Resources": {name: named(value, unknown) for name, value in known.items()},
        "Outputs": named(template.get("Outputs", {}), unknown),
    }


def named(value: Any, unknown: set[str]) -> Any:
    """Replace references to resources that moto cannot make."""
    match value:
        case {"Ref": logical} if logical in unknown:
            return logical.lower()
        case {"Fn::GetAtt": [logical, _]} if logical in unknown:
            return logical.lower()
        case {"Fn::Sub": str() as text}:
            for logical in unknown:
                text = re.sub(rf"\$\{{{logical}(\.\w+)?\}}", logical.lower(), text)
            return {"Fn::Sub": text}
        case dict():
            return {key: named(item, unknown) for key, item in value.items()}
        case list():
            return [named(item, unknown) for item in value]
        case _:
            return value
