"""Where providers are, by region: the variable BEACON_PROVIDERS, a JSON list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from minutehand.config import ConfigurationError, read_text
from minutehand_apps.beacon.models import Region, ShortText

VARIABLE = "BEACON_PROVIDERS"
EXAMPLE = '[{"name": "acme", "url": "https://eu.acme.example", "regions": ["eu-west"]}]'
#: Stands for every region that a spec may name.
ANY_REGION = "*"


class Provider(BaseModel):
    """One provider: an HTTP server that answers questions in some regions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ShortText
    url: str
    regions: tuple[Region | str, ...] = Field(min_length=1)
    #: Sent as a bearer token; unset: none is.
    token: str | None = Field(default=None, repr=False)

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url.startswith(("https://", "http://")):
            raise ValueError("must be an http(s) URL")
        return url.rstrip("/")

    def serves(self, region: str) -> bool:
        """Whether the provider answers in `region`."""
        return region in self.regions or ANY_REGION in self.regions


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
        except (ValueError, ValidationError) as error:
            raise ConfigurationError(
                VARIABLE, f"must be a list of providers: {error}", EXAMPLE
            ) from error
        names = [provider.name for provider in found.providers]
        if len(set(names)) < len(names):
            raise ConfigurationError(VARIABLE, "must give each provider a name of its own", EXAMPLE)
        return found

    def serving(self, region: str) -> list[Provider]:
        """The providers of a region: those that name it first, then those of any region."""
        able = [provider for provider in self.providers if provider.serves(region)]
        return sorted(able, key=lambda provider: region not in provider.regions)
