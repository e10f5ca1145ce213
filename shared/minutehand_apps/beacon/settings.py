"""The providers by region, from the variable BEACON_PROVIDERS, a JSON list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from minutehand.config import ConfigurationError, read_text
from minutehand_apps.beacon.models import Region, ShortText

VARIABLE = "BEACON_PROVIDERS"
EXAMPLE = '[{"name": "acme", "url": "https://eu.acme.example", "regions": ["eu-west"]}]'
#: Matches every region.
ANY_REGION = "*"


class Provider(BaseModel):
    """A provider: an HTTP server that answers questions in some regions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ShortText
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^ ]*[^ /]$")]
    regions: tuple[Region | str, ...] = Field(min_length=1)
    #: Bearer token for the provider. If unset, none is sent.
    token: str | None = Field(default=None, repr=False)


class BeaconSettings(BaseModel):
    """Settings for providers, from environment variables."""

    model_config = ConfigDict(frozen=True)

    providers: tuple[Provider, ...] = ()

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read `BEACON_PROVIDERS`. If it is unset, there are no providers.

        Raises:
            ConfigurationError: The value is not a list of providers, or two have the same name.
        """
        text = read_text(environ, VARIABLE)
        if text is None:
            return cls()
        try:
            settings = cls.model_validate({"providers": json.loads(text)})
        except ValueError as error:
            raise ConfigurationError(
                VARIABLE, f"must be a list of providers: {error}", EXAMPLE
            ) from error
        if len({provider.name for provider in settings.providers}) < len(settings.providers):
            raise ConfigurationError(VARIABLE, "must give each provider a different name", EXAMPLE)
        return settings

    def serving(self, region: str) -> list[Provider]:
        """Return the providers of a region. Providers that name the region come first."""
        matching = [
            provider for provider in self.providers if {region, ANY_REGION} & set(provider.regions)
        ]
        return sorted(matching, key=lambda provider: region not in provider.regions)
