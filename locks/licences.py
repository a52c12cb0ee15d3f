"""Write docs/dependencies.md, what each package is licensed under and who brings it, from the bill of materials of `make sbom`.

Ends with code 1, and writes nothing, where a package has a licence that is not in KNOWN: someone must read it first.
"""

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KNOWN = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib",
}  # fmt: skip
"""Licences that let a program of any licence use the package as it is. MPL-2.0 asks for the source of changes to its own files."""
CLASSIFIERS = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
READ_BY_HAND = {"protobuf": "BSD-3-Clause", "sigstore-models": "MIT", "transformers": "Apache-2.0"}
"""Packages whose metadata name no licence, or one in words."""
HEAD = """# Dependencies

What `make install` brings, from the bill of materials that `make sbom` writes (CycloneDX, `build/sbom.cdx.json`). Why each
direct dependency is there stands in `pyproject.toml`; [trust.md](trust.md#packages) says how their bytes are held. "Brought by"
names who asks for a package, for an option of its own perhaps.

Not among them, since `make install` leaves them out: the extras `wandb` (wandb, MIT) and `mlflow` (mlflow-skinny, Apache-2.0;
SQLAlchemy and Alembic, MIT), with what these bring ([logs.md](logs.md)), and those of `make interop`; `constraints.txt` has the
versions that were tested.

| package | licence | brought by |
|---|---|---|
"""


def normal(name: str) -> str:
    """Return a package's name as indexes spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(component: dict[str, Any]) -> str:
    """Return the SPDX expression of a package. Raises: SystemExit for one that is not known."""
    stated = [
        entry.get("expression") or entry["license"].get("id") or entry["license"]["name"]
        for entry in component.get("licenses", ())
    ]
    expressions = {CLASSIFIERS.get(text, text) for text in stated} or {READ_BY_HAND.get(normal(component["name"]), "")}
    parts = {part for text in expressions for part in re.split(r" AND | OR |[()]", text) if part.strip()}
    if not parts or parts - KNOWN:
        raise SystemExit(
            f"{component['name']}: its licence ({', '.join(sorted(expressions)) or 'none stated'}) is not in locks/licences.py"
        )
    return " and ".join(sorted(expressions))


def brought_by(components: list[dict[str, Any]], bom: dict[str, Any]) -> dict[str, list[str]]:
    """Return who asks for each package: Fanal, one of its extras, or other packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {
        "Fanal": project["dependencies"],
        **{f"`{extra}`": project["optional-dependencies"][extra] for extra in ("hf", "sign", "dev")},
    }
    direct = {normal(re.match(r"[\w.-]+", text)[0]): who for who, texts in asked.items() for text in texts}
    names = {component["bom-ref"]: normal(component["name"]) for component in components}
    found: dict[str, list[str]] = {name: [direct[name]] for name in names.values() if name in direct}
    for entry in bom["dependencies"]:
        for wanted in entry.get("dependsOn", ()):
            if entry["ref"] in names and wanted in names and names[wanted] not in direct:
                found.setdefault(names[wanted], []).append(names[entry["ref"]])
    return found


def page(bom: dict[str, Any]) -> str:
    """Return the page, without the line that is Fanal's own and without pip, which brings the others."""
    components = [one for one in bom["components"] if normal(one["name"]) not in ("fanal", "pip")]
    by = brought_by(components, bom)
    rows = sorted((normal(one["name"]), one["version"].split("+")[0], licence_of(one)) for one in components)
    return HEAD + "".join(
        f"| {name} {version} | {licence} | {', '.join(sorted(by.get(name, ['torch'])))} |\n"
        for name, version, licence in rows
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(page(json.loads(Path(sys.argv[1]).read_text())))
