"""What the apps' `lambda.yml` ask for, checked and merged: one answer for packager, stack, doctor.

All keys are optional:

==============================  ==================================================================
`parameters`                    parameters of a stage with their defaults
`functions.<f>.environment`     variables of the function `jobs`, `status`, `worker` or `health`
`functions.<f>.secrets`         names of secrets that the function may read, when they are there
`functions.<f>.statements`      IAM statements of the function's role, intrinsic functions written
                                long: `{'Fn::Sub': …}`
`uploads`                       true for a bucket of uploads, and the rights of `jobs` and `worker`
`local`                         variables of the local stack by their value there; a developer's own
                                value of these and of all above wins, an empty one is none
==============================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minutehand.app import App
from minutehand.config import ConfigurationError

FILE = "lambda.yml"
Function = Literal["jobs", "status", "worker", "health"]
#: From where the console's pages load and to where they send uploads.
UPLOAD_ORIGINS = (
    "https://${self:custom.uploadsBucket}.s3.${AWS::Region}.${AWS::URLSuffix}",
    "https://${self:custom.uploadsBucket}.s3.${AWS::URLSuffix}",
)


class FunctionNeeds(BaseModel):
    """What an app needs of one function."""

    model_config = ConfigDict(extra="forbid")

    environment: dict[str, Any] = Field(default_factory=dict)
    secrets: list[str] = Field(default_factory=list)
    statements: list[dict[str, Any]] = Field(default_factory=list)


class Needs(BaseModel):
    """What one app needs, or all of them."""

    model_config = ConfigDict(extra="forbid")

    parameters: dict[str, Any] = Field(default_factory=dict)
    functions: dict[Function, FunctionNeeds] = Field(default_factory=dict)
    local: dict[str, str] = Field(default_factory=dict)
    uploads: bool = False

    def secrets(self, function: str) -> tuple[str, ...]:
        """The names of the secrets that `function` takes for the apps."""
        return tuple(self._of(function).secrets)

    def variables(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The variables of the local stack, the caller's own values over the apps'."""
        named = {name for f in self.functions.values() for name in (*f.environment, *f.secrets)}
        found = {name: inherited.get(name) for name in named} | self.local
        return {name: v for name, value in found.items() if (v := inherited.get(name) or value)}

    def unset(self, inherited: Mapping[str, str]) -> list[str]:
        """Variables with a plain value on AWS, and none in the local stack."""
        here = self.variables(inherited).keys() | self.local.keys()
        values = [each for f in self.functions.values() for each in f.environment.items()]
        unset = {
            name
            for name, value in values
            if name not in here and not isinstance(value, dict) and "${" not in str(value)
        }
        return sorted(unset)

    def service(self) -> dict[str, Any]:
        """What serverless.yml includes: functions' variables, and a policy per role."""
        bucket = {"UPLOADS_BUCKET": {"Ref": "UploadsBucket"}} if self.uploads else {}
        wanted = {name: needs.environment for name, needs in self.functions.items()}
        for name in ("jobs", "worker"):
            wanted[name] = bucket | wanted.get(name, {})
        functions = {name: {"environment": values} for name, values in wanted.items() if values}
        policies = {
            f"{name.capitalize()}PolicyOfApps": {
                "Type": "AWS::IAM::Policy",
                "Properties": {
                    "PolicyName": "apps",
                    "Roles": [{"Ref": f"{name.capitalize()}Role"}],
                    "PolicyDocument": {"Version": "2012-10-17", "Statement": needs.statements},
                },
            }
            for name, needs in self.functions.items()
            if needs.statements
        }
        origins = "".join(f" {origin}" for origin in UPLOAD_ORIGINS) if self.uploads else ""
        resources = {"Resources": policies}
        return {"functions": functions, "resources": resources, "uploadOrigins": origins}

    def _of(self, function: str) -> FunctionNeeds:
        return next((needs for name, needs in self.functions.items() if name == function), _NOTHING)


_NOTHING = FunctionNeeds()


def read_needs(apps: Iterable[App]) -> Needs:
    """Merge the files of `apps`.

    Raises:
        ConfigurationError: A file is not as described above, or two apps give a name two meanings.
    """
    whole = Needs()
    for app in apps:
        file = app.folder / FILE
        if not file.is_file():
            continue
        try:
            needs = Needs.model_validate(yaml.safe_load(file.read_text("utf-8")) or {})
        except (yaml.YAMLError, ValidationError) as error:
            raise ConfigurationError(
                str(file), f"is not valid: {error}", "parameters: {}"
            ) from error
        _add(str(file), whole.parameters, needs.parameters)
        _add(str(file), whole.local, needs.local)
        whole.uploads = whole.uploads or needs.uploads
        for name, more in needs.functions.items():
            known = whole.functions.setdefault(name, FunctionNeeds())
            _add(str(file), known.environment, more.environment)
            known.secrets += [secret for secret in more.secrets if secret not in known.secrets]
            known.statements += more.statements
    return whole


def _add(file: str, known: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if known.setdefault(name, value) != value:
            raise ConfigurationError(
                file, f"gives {name} the value {value!r}; another app gives {known[name]!r}", name
            )
