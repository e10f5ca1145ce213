"""An AWS account for `minutehand deploy`: moto, and what moto does not know of an account."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from typing import Any

from minutehand.local.aws import App, MotoServer, Start

#: moto validates by a linter of its own version; the artefact's tests do so by the pinned one.
VALID = (
    '<ValidateTemplateResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/">'
    "<ValidateTemplateResult><Parameters/></ValidateTemplateResult></ValidateTemplateResponse>"
)


class Account:
    """A new account until it is closed: each request, and each function that was invoked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.invoked: list[str] = []
        self._server = MotoServer("127.0.0.1", 0, self._before)
        self._server.start()
        self.url, self.close = self._server.url, self._server.stop

    def _before(self, moto: App) -> App:
        def serve(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            self.asked.append(f"{environ['REQUEST_METHOD']} {path}")
            body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            if path.rstrip("/") == "/2016-08-19/account-settings":
                limit = {"ConcurrentExecutions": 10, "UnreservedConcurrentExecutions": 10}
                return _answer(start, {"AccountLimit": limit, "AccountUsage": {"FunctionCount": 0}})
            if path.endswith("/invocations"):
                self.invoked.append(path.split("/")[3])
                return _answer(start, {})
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


def _answer(start: Start, body: Any, kind: str = "application/json") -> Iterable[bytes]:
    start("200 OK", [("content-type", kind)])
    return [(body if isinstance(body, str) else json.dumps(body)).encode()]


def show_outputs() -> None:
    """Let every stack answer with its newest template's outputs: change sets leave the old."""
    from moto.cloudformation.models import cloudformation_backends

    for account in cloudformation_backends.values():
        for backend in account.values():
            for stack in backend.stacks.values():
                stack._parse_template()
                stack.output_map = stack._create_output_map()
                backend.exports |= {each.name: each for each in stack.exports}  # deletion reads it


def for_moto(template: dict[str, Any]) -> str:
    """The resources moto can make; references to the others become their names."""
    from moto.cloudformation.parsing import get_model_map  # seconds, of this file's process alone

    makes = get_model_map()
    resources = template["Resources"]
    unknown = [name for name, each in resources.items() if each["Type"] not in makes]
    known = {name: each for name, each in resources.items() if name not in unknown}
    for resource in known.values():
        resource.pop("DependsOn", None)  # references give it an order
    text = json.dumps(template | {"Resources": known})
    names = "|".join(unknown)
    text = re.sub(rf'\{{"(?:Ref|Fn::GetAtt)": \[?"({names})"[^}}]*\}}', r'"\1"', text)
    return re.sub(rf"\$\{{({names})(\.\w+)?\}}", r"\1", text)
