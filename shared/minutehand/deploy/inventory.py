"""What a zip contains, for auditors: a CycloneDX bill of materials and a list of licences.

Versions and hashes come from the lock; names and licences from each distribution's own metadata.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from minutehand.deploy.lockfile import Locked

_NAMESPACE = uuid.UUID("6f1f6a0e-5d0c-5a52-9a0f-0d6c3c1a9b11")


def read_metadata(tree: Path) -> dict[str, Message]:
    """Every installed distribution's METADATA by canonical name."""
    found: dict[str, Message] = {}
    for path in sorted(tree.glob("*.dist-info/METADATA")):
        message = HeaderParser().parsestr(path.read_text("utf-8"))
        found[canonicalize_name(message["Name"])] = message
    return found


def licence_of(metadata: Message) -> str:
    """The licence a distribution states: SPDX expression, else classifiers, else free text."""
    if expression := metadata["License-Expression"]:
        return str(expression)
    classifiers = [
        value.rsplit(" :: ", 1)[-1]
        for value in metadata.get_all("Classifier", [])
        if value.startswith("License ::")
    ]
    if classifiers:
        return " OR ".join(sorted(classifiers))
    return str(metadata["License"] or "unknown").strip().splitlines()[0]


def bill_of_materials(
    name: str, version: str, locked: Sequence[Locked], metadata: dict[str, Message]
) -> dict[str, Any]:
    """A CycloneDX 1.6 document; the same zip always yields the same document, serial included."""
    components = [
        {
            "type": "library",
            "bom-ref": _purl(entry),
            "name": entry.name,
            "version": entry.version,
            "purl": _purl(entry),
            "licenses": [
                {"license": {"name": licence_of(metadata[canonicalize_name(entry.name)])}}
            ],
            "properties": [{"name": "minutehand:locked-hash", "value": h} for h in entry.hashes],
        }
        for entry in locked
        if canonicalize_name(entry.name) in metadata
    ]
    root = f"pkg:generic/minutehand-{name}@{version}"
    fingerprint = json.dumps(components)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, name + version + fingerprint)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": f"minutehand-{name}",
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
        "dependencies": [
            {"ref": root, "dependsOn": [_purl(entry) for entry in locked]},
            *(
                {
                    "ref": _purl(entry),
                    "dependsOn": [_purl(child) for child in locked if entry.name in child.parents],
                }
                for entry in locked
            ),
        ],
    }


def licence_table(locked: Sequence[Locked], metadata: dict[str, Message]) -> str:
    """One line per distribution: name, version, licence, home page."""
    lines = ["name\tversion\tlicence\thome"]
    for entry in locked:
        about = metadata.get(canonicalize_name(entry.name))
        if about is not None:
            lines.append(f"{entry.name}\t{entry.version}\t{licence_of(about)}\t{_home(about)}")
    return "\n".join(lines) + "\n"


def _purl(entry: Locked) -> str:
    return f"pkg:pypi/{entry.name}@{entry.version}"


def _home(metadata: Message) -> str:
    if metadata["Home-page"]:
        return str(metadata["Home-page"])
    urls = dict(
        value.split(", ", 1) for value in metadata.get_all("Project-URL", []) if ", " in value
    )
    for label in ("Homepage", "Source", "Repository", "homepage", "source", "repository"):
        if label in urls:
            return urls[label]
    return next(iter(urls.values()), "-")
