# SPDX-License-Identifier: Apache-2.0
"""The software bill of materials (CycloneDX): each library with version and licence, each model with its digest.

Libraries are what ``pyproject.toml`` names and what those need, in the versions of the environment that this runs in;
where the Debian package brings a library along, in the version that is pinned there. A property says which it is.
picamera2 and GStreamer come from the board's own system and are not listed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import yaml
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OPTIONAL = ("rtsp", "sealed")  # extras of a unit that come from the same place as its other libraries
PINS = ("deploy/debian/vendor-native.txt", "deploy/debian/vendor-pure.txt")
LICENCE = "Apache-2.0"

_PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[0-9.]+) ", re.MULTILINE)
_CLASSIFIERS = {  # of libraries whose metadata has no SPDX expression
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
}
MAX_LICENCE_CHARACTERS = 60  # a longer field holds the text of a licence instead of its name


@dataclass(frozen=True, slots=True)
class Library:
    """A library that a unit runs with."""

    name: str
    version: str
    licence: str
    origin: str
    needs: tuple[str, ...]
    optional: bool


def read_requirements(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the libraries that ``pyproject.toml`` asks for: of every unit, and those of ``OPTIONAL`` or brought."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    always = [canonicalize_name(Requirement(text).name) for text in project["dependencies"]]
    extras = [
        canonicalize_name(Requirement(text).name)
        for extra in OPTIONAL
        for text in project["optional-dependencies"][extra]
    ]
    extras += [canonicalize_name(found["name"]) for name in PINS for found in _PIN.finditer((root / name).read_text())]
    return tuple(always), tuple(dict.fromkeys(name for name in extras if name not in always))


def collect(root: Path) -> tuple[Library, ...]:
    """Follow the requirements to everything that is needed; PackageNotFoundError for what is not installed here."""
    always, optional = read_requirements(root)
    pins = {
        found["name"]: (found["version"], name) for name in PINS for found in _PIN.finditer((root / name).read_text())
    }
    libraries: dict[str, Library] = {}
    for names, is_optional in ((always, False), (optional, True)):
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in libraries:
                continue
            found = metadata.distribution(name)
            version, origin = pins.get(name, (found.version, "as installed where the release was made"))
            needs = tuple(_needs(found))
            libraries[name] = Library(name, version, _licence(found), origin, needs, is_optional)
            waiting += needs
    return tuple(libraries[name] for name in sorted(libraries))


def make_bom(root: Path, *, version: str, commit: str, time: int) -> str:
    """Write the bill of materials of the sources in ``root``; serial number and date follow from the commit."""
    licences = LicenseFactory()
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"postern {version} {commit}"))
    bom.metadata.timestamp = datetime.fromtimestamp(time, UTC)
    product = Component(
        name="postern", version=version, type=ComponentType.FIRMWARE, bom_ref="postern",
        licenses=[licences.make_from_string(LICENCE)],
    )  # fmt: skip
    bom.metadata.component = product
    components = {library.name: _component(library, licences) for library in collect(root)}
    models = [
        _model(model, licences) for model in yaml.safe_load((root / "models/manifest.yaml").read_text())["models"]
    ]
    for component in (*components.values(), *models):
        bom.components.add(component)
    always, optional = read_requirements(root)
    bom.register_dependency(product, [*(components[name] for name in (*always, *optional)), *models])
    for library in collect(root):
        bom.register_dependency(components[library.name], [components[name] for name in library.needs])
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _needs(found: metadata.Distribution) -> Iterator[str]:
    """Names of what a library needs on this kind of machine, extras left out."""
    for text in found.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def _licence(found: metadata.Distribution) -> str:
    """The licence as the library's metadata tells it: an SPDX expression where there is one."""
    fields = found.metadata
    told = "".join(fields.get_all("License-Expression") or ())
    for classifier in fields.get_all("Classifier") or ():
        told = told or _CLASSIFIERS.get(classifier, "")
    plain = "".join(fields.get_all("License") or ()).strip()
    told = told or (plain if len(plain) <= MAX_LICENCE_CHARACTERS and "\n" not in plain else "")
    if not told:
        raise ValueError(f"{found.name} does not name its licence in a form that is known here: add it to this file")
    return told


def _component(library: Library, licences: LicenseFactory) -> Component:
    url = PackageURL("pypi", name=library.name, version=library.version)
    return Component(
        name=library.name,
        version=library.version,
        type=ComponentType.LIBRARY,
        bom_ref=str(url),
        purl=url,
        scope=ComponentScope.OPTIONAL if library.optional else ComponentScope.REQUIRED,
        licenses=[licences.make_from_string(library.licence)],
        properties=[Property(name="postern:version", value=library.origin)],
    )


def _model(model: dict[str, str], licences: LicenseFactory) -> Component:
    return Component(
        name=model["file"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model:{model['name']}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=model["sha256"])],
        licenses=[licences.make_from_string(model["licence"])],
    )
