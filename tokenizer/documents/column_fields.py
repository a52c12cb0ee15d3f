"""Fields of a document that a shard's columns are taken from (tokenizer/shards/document_columns.py), and their values as text."""

import datetime
import functools
import ipaddress
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fanal.errors import UserError

FILE, POSITION, HOST = "file", "position", "host"
ORIGIN = (FILE, POSITION)
"""Columns that every document has: where it came from."""
MAX_VALUE_CHARACTERS = 4096
"""Longest value of a column: it names or labels a document. A longer one is left out and counted."""
HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
KNOWN_HOSTS = 1 << 16
"""Hosts whose domain a process keeps in mind."""


@dataclass(frozen=True, kw_only=True)
class ColumnFields:
    """Names of the fields of a document that its columns are taken from."""

    id: str = "id"
    url: str = "url"
    licence: str = "licence"
    language: str = "language"
    date: str = "date"
    keep: tuple[str, ...] = ()
    """Further fields, kept under their own names; in alphabetical order, each once."""

    def __post_init__(self) -> None:
        """Raises: UserError for a field to keep that cannot have a column of its name."""
        object.__setattr__(self, "keep", tuple(sorted(set(self.keep) - {""})))
        taken = dict(zip(self._fixed_columns, self._fixed_fields, strict=True)) | dict.fromkeys(ORIGIN)
        for name in self.keep:
            if name in taken and (taken[name] != name or name == HOST):
                source = f"field {taken[name]!r}" if taken[name] else "the input files"
                raise UserError(
                    f"--keep {shlex.quote(name)}: the column {name!r} is taken from {source}, and there is one of each name; give "
                    f"the field another name in the input, or leave this --keep out"
                )
        object.__setattr__(self, "keep", tuple(name for name in self.keep if name not in taken))

    @property
    def _fixed_columns(self) -> tuple[str, ...]:
        return ("id", HOST, "licence", "language", "date")

    @property
    def _fixed_fields(self) -> tuple[str, ...]:
        return (self.id, self.url, self.licence, self.language, self.date)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, behind those of ORIGIN."""
        return (*self._fixed_columns, *self.keep)

    @property
    def fields(self) -> tuple[str, ...]:
        """The field that each column is taken from."""
        return (*self._fixed_fields, *self.keep)


def column_values(found: Sequence[Any], too_long: list[int]) -> list[str | None]:
    """Return the values of a document's columns, in the order of ``ColumnFields.columns``, from its fields.

    Args: too_long counts, for each column, the values that are left out for their length.
    """
    values = [value or None if isinstance(value, str) else as_text(value) for value in found]
    if values[1] is not None:
        values[1] = registrable_domain(values[1])
    for number, value in enumerate(values):
        if value is not None and len(value) > MAX_VALUE_CHARACTERS:
            values[number] = None
            too_long[number] += 1
    return values


def as_text(value: Any) -> str | None:
    """Return a field's value as text: a number, a list or an object as JSON; None for one that says nothing ([], {})."""
    if value is None or value == [] or value == {}:
        return None
    if isinstance(value, dict | list | bool | int | float):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_scalar)
    return _scalar(value)


def _scalar(value: Any) -> str:
    """Return a value that only a Parquet file has as text: a date in ISO 8601, bytes in hexadecimal digits."""
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)


def registrable_domain(url: str) -> str | None:
    """Return the domain under which a URL's host was registered, in ASCII (https://www.example.co.uk/a: example.co.uk); None if the
    text is no URL with a host.

    Domains of the list's private part count as suffixes too: what lies at a.github.io is not github.io's. A host that has no such
    domain (an IP address, a name without a dot, a suffix itself) stands for itself.
    """
    if "//" not in url:
        return None
    try:
        host = urlsplit(url.strip()).hostname
    except ValueError:  # brackets around what is no address
        return None
    return _domain_of(host.rstrip(".")) if host else None


@functools.lru_cache(KNOWN_HOSTS)
def _domain_of(host: str) -> str | None:
    """Return the domain of a host in lower case."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return None
    return _suffix_list().privatesuffix(name) or name if HOST_NAME.fullmatch(name) else None


@functools.cache
def _suffix_list() -> Any:
    """Return the public suffix list of the installed package, read once: 0.1 s."""
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
