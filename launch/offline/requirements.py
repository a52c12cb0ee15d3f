"""Requirements of a lock for another machine than this one: those whose markers hold there, with the hashes of their files."""

import re
from pathlib import Path

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement

from fanal.errors import UserError

MINOR_VERSIONS = ("3.11", "3.12", "3.13")
"""Versions of Python that Fanal runs on."""


def environment_of(architecture: str, python_version: str) -> dict[str, str]:
    """Return what markers ask of a Linux machine with this processor and CPython (PEP 508)."""
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": architecture,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python_version}.0",
        "python_version": python_version,
        "sys_platform": "linux",
    }


def requirements_for(lock: Path, architecture: str, python_version: str) -> list[str]:
    """Return the requirements of a lock that hold on another machine, each a line with its hashes and without its marker: pip
    reads markers for the machine that it runs on.

    Raises: UserError if a line is no pinned requirement with hashes.
    """
    there = environment_of(architecture, python_version)
    found = []
    for line in _lines(lock):
        text, *hashes = re.split(r"\s+--hash=", line)
        try:
            requirement = Requirement(text)
        except (InvalidRequirement, InvalidMarker) as error:
            raise UserError(
                f"{lock}: {text!r} must be a requirement; click==8.1.7 --hash=sha256:... works ({error})"
            ) from None
        if not hashes or not re.fullmatch(r"==[^,*]+", str(requirement.specifier)):
            raise UserError(
                f"{lock}: {text!r} must be a version with the hashes of its files, as `uv pip compile --generate-hashes` writes"
            )
        if requirement.marker is None or Marker(str(requirement.marker)).evaluate(there):
            pinned = f"{requirement.name}{requirement.specifier}"
            found.append(" ".join([pinned, *(f"--hash={one}" for one in hashes)]))
    return found


def _lines(lock: Path) -> list[str]:
    """Return the logical lines of a file of requirements."""
    try:
        text = lock.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{lock} must be a file of requirements with hashes ({error}); locks/requirements.txt works"
        ) from None
    joined = re.sub(r"\\\n", " ", text).splitlines()
    return [line.strip() for line in joined if line.strip() and not line.lstrip().startswith("#")]
