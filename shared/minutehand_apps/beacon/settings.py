"""Where providers are, by region: the variable BEACON_PROVIDERS, a JSON list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from minutehand.config import ConfigurationError, read_text
from minutehand_apps.beacon.models import Region, ShortText

VARIABLE = "BEACON_PROVIDERS"
EXAMPLE = '[{"name": "acme", "url": "https://eu.acme.example", "regions": ["eu-west"]}]'
#: Means every region that a spec may name.
ANY_REGION = "*"


class Provider(BaseModel):
    """One provider: an HTTP server that answers questions in some regions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ShortText
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^ ]*[^ /]$")]
    regions: tuple[Region | str, ...] = Field(min_length=1)
    #: Sent as a bearer token; unset: none is.
    token: str | None = Field(default=None, repr=False)


class BeaconSettings(BaseModel):
    """What the environment says about providers."""

    model_config = ConfigDict(frozen=True)

    providers: tuple[Provider, ...] = ()

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read `BEACON_PROVIDERS`; none when it is unset.

        Raises:
            ConfigurationError: It is not a list of providers, or two have one name.
        """
        text = read_text(environ, VARIABLE)
        if text is None:
            return cls()
        try:
            found = cls.model_validate({"providers": json.loads(text)})
        except ValueError as error:
            raise ConfigurationError(
                VARIABLE, f"must be a list of providers: {error}", EXAMPLE
            ) from error
        if len({each.name for each in found.providers}) < len(found.providers):
            raise ConfigurationError(VARIABLE, "must give each provider a name of its own", EXAMPLE)
        return found

    def serving(self, region: str) -> list[Provider]:
        """The providers of a region: those that name it first, then those of any region."""
        able = [each for each in self.providers if {region, ANY_REGION} & set(each.regions)]
        return sorted(able, key=lambda each: region not in each.regions)
