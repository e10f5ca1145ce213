"""Requirements of apps on AWS, each in the app's file `lambda.yml`.

This module validates and merges these files for the packager, the local stack and the doctor.

All keys of `lambda.yml` are optional:

==============================  ==================================================================
`parameters`                    parameters of a stage with their defaults
`functions.<f>.environment`     variables of the function `jobs`, `status`, `worker` or `health`
`functions.<f>.secrets`         names of optional secrets that the function may read
`functions.<f>.statements`      IAM statements of the function's role, with intrinsic functions in
                                the long form: `{'Fn::Sub': …}`
`uploads`                       true for a bucket of uploads, and the rights of `jobs` and `worker`
`local`                         values of variables on the local stack; a variable of the
                                developer's environment takes precedence, unless it is empty
==============================  ==================================================================
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minutehand.app import App
from minutehand.config import ConfigurationError

FILE = "lambda.yml"
Function = Literal["jobs", "status", "worker", "health"]
#: Web origins of the uploads bucket, from which the console's pages may load files and to which
#: they may upload files.
UPLOAD_ORIGINS = (
    "https://${self:custom.uploadsBucket}.s3.${AWS::Region}.${AWS::URLSuffix}",
    "https://${self:custom.uploadsBucket}.s3.${AWS::URLSuffix}",
)


class FunctionNeeds(BaseModel):
    """Requirements of an app on one Lambda function."""

    model_config = ConfigDict(extra="forbid")

    environment: dict[str, Any] = Field(default_factory=dict)
    secrets: list[str] = Field(default_factory=list)
    statements: list[dict[str, Any]] = Field(default_factory=list)


class Needs(BaseModel):
    """Requirements of one app, or the merged requirements of all apps."""

    model_config = ConfigDict(extra="forbid")

    parameters: dict[str, Any] = Field(default_factory=dict)
    functions: dict[Function, FunctionNeeds] = Field(default_factory=dict)
    local: dict[str, str] = Field(default_factory=dict)
    uploads: bool = False

    def secrets(self, function: str) -> tuple[str, ...]:
        """Return the names of the apps' secrets that the Lambda function `function` reads."""
        return tuple(
            secret
            for name, needs in self.functions.items()
            if name == function
            for secret in needs.secrets
        )

    def variables(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the apps' variables for the local stack.

        Values in `inherited` replace the apps' values.
        """
        names = {name for f in self.functions.values() for name in (*f.environment, *f.secrets)}
        defaults = {name: inherited.get(name) for name in names} | self.local
        return {name: v for name, value in defaults.items() if (v := inherited.get(name) or value)}

    def unset(self, inherited: Mapping[str, str]) -> list[str]:
        """List the apps' variables that have a fixed value on AWS but none on the local stack."""
        local = self.variables(inherited).keys() | self.local.keys()
        values = [item for f in self.functions.values() for item in f.environment.items()]
        unset = {
            name
            for name, value in values
            if name not in local and not isinstance(value, dict) and "${" not in str(value)
        }
        return sorted(unset)

    def service(self) -> dict[str, Any]:
        """Return data for serverless.yml: the functions' variables, and policies of their roles."""
        bucket = {"UPLOADS_BUCKET": {"Ref": "UploadsBucket"}} if self.uploads else {}
        variables = {name: needs.environment for name, needs in self.functions.items()}
        for name in ("jobs", "worker"):
            variables[name] = bucket | variables.get(name, {})
        functions = {name: {"environment": values} for name, values in variables.items() if values}
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


def read_needs(apps: Iterable[App]) -> Needs:
    """Merge the `lambda.yml` files of `apps`.

    Raises:
        ConfigurationError: A `lambda.yml` is invalid, or two apps set a name to different values.
    """
    merged = Needs()
    for app in apps:
        file = app.folder / FILE
        if not file.is_file():
            continue
        try:
            needs = Needs.model_validate(yaml.safe_load(file.read_text("utf-8")) or {})
        except (yaml.YAMLError, ValidationError) as error:
            raise ConfigurationError(
                str(file), f"must be valid: {error}", "parameters: {}"
            ) from error
        _add(str(file), merged.parameters, needs.parameters)
        _add(str(file), merged.local, needs.local)
        merged.uploads = merged.uploads or needs.uploads
        for name, more in needs.functions.items():
            function = merged.functions.setdefault(name, FunctionNeeds())
            _add(str(file), function.environment, more.environment)
            secrets = [secret for secret in more.secrets if secret not in function.secrets]
            function.secrets += secrets
            function.statements += more.statements
    return merged


def _add(file: str, values: dict[str, Any], additions: Mapping[str, Any]) -> None:
    for name, value in additions.items():
        if values.setdefault(name, value) != value:
            raise ConfigurationError(
                file, f"gives {name} the value {value!r}; another app gives {values[name]!r}", name
            )
