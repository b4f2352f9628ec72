"""The bill of materials, made from the files of the image: CycloneDX 1.5, the same every time."""

from __future__ import annotations

import email.parser
import re
from collections.abc import Iterable, Mapping
from typing import Any

from oci import File

_DIST_INFO = re.compile(r"usr/local/lib/python3\.11/dist-packages/[^/]+\.dist-info/METADATA")
_STATUS = "var/lib/dpkg/status.d/"


def make(files: Mapping[str, File], *, name: str, digest: str) -> dict[str, Any]:
    """A component for every wheel and every Debian package that the image holds."""
    components = []
    for path, file in sorted(files.items()):
        if _DIST_INFO.fullmatch(path):
            components.append(_wheel(_fields(file)))
        elif path.startswith(_STATUS) and not path.endswith(".md5sums") and not file.is_folder:
            components.append(_package(_fields(file)))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "version": digest}},
        "components": components,
    }


def differences(
    sbom: Mapping[str, Any], *, wheels: Mapping[str, str], packages: Iterable[str]
) -> list[str]:
    """Where the bill and what was to be installed disagree, as sentences.

    `wheels` gives the version of each, `packages` the names; the names in any spelling.
    """
    named = {"pypi": {}, "deb": {}}  # type: dict[str, dict[str, str]]
    for component in sbom["components"]:
        kind = component["purl"].removeprefix("pkg:").partition("/")[0]
        named[kind][_normal(component["name"])] = component["version"]
    wanted = {_normal(name): version for name, version in wheels.items()}
    debian = {_normal(name) for name in packages}
    return [
        *(f"wheel {name} is not in the SBOM" for name in sorted(wanted.keys() - named["pypi"])),
        *(f"wheel {name} was not asked for" for name in sorted(named["pypi"].keys() - wanted)),
        *(
            f"wheel {name} is {named['pypi'][name]}, not {version}"
            for name, version in sorted(wanted.items())
            if named["pypi"].get(name, version) != version
        ),
        *(f"Debian package {name} is not in the SBOM" for name in sorted(debian - {*named["deb"]})),
        *(f"Debian package {name} was not asked for" for name in sorted({*named["deb"]} - debian)),
    ]


def _wheel(fields: Mapping[str, str]) -> dict[str, Any]:
    name, version = _normal(fields["Name"]), fields["Version"]
    licence = fields.get("License-Expression") or fields.get("License", "").partition("\n")[0]
    return {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{version}",
        "name": name,
        "version": version,
        **({"licenses": [{"license": {"name": licence}}]} if licence else {}),
        "purl": f"pkg:pypi/{name}@{version}",
    }


def _package(fields: Mapping[str, str]) -> dict[str, Any]:
    name, version = fields["Package"], fields["Version"]
    purl = f"pkg:deb/debian/{name}@{version}?arch={fields['Architecture']}&distro=debian-12"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "licenses": [{"license": {"name": f"see /usr/share/doc/{name}/copyright"}}],
        "purl": purl,
    }


def _fields(file: File) -> dict[str, str]:
    """The header of a METADATA or control file, which both look like that of a mail."""
    message = email.parser.Parser().parsestr(file.data.decode("utf-8", "replace"), headersonly=True)
    return {key: str(value) for key, value in message.items()}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
