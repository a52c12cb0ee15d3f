"""Values of a document's columns: which fields they are taken from, and what becomes of a URL, a number, a list."""

import datetime
import decimal
import subprocess
import sys
from pathlib import Path

import pytest

from fanal.errors import UserError
from tokenizer.documents.column_fields import (
    MAX_VALUE_CHARACTERS,
    ColumnFields,
    as_text,
    column_values,
    registrable_domain,
)

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://www.example.co.uk/a?b=http://other.com#c", "example.co.uk"),
        ("http://user:password@Sub.EXAMPLE.com:8080/", "example.com"),
        ("https://www.city.kawasaki.jp/", "city.kawasaki.jp"),
        ("https://a.b.kawasaki.jp/", "a.b.kawasaki.jp"),
        ("https://one.github.io/page", "one.github.io"),
        ("https://github.io/", "github.io"),
        ("http://www.münchen.de/", "xn--mnchen-3ya.de"),
        ("http://www.xn--mnchen-3ya.de./", "xn--mnchen-3ya.de"),
        ("https://www.site.unheard-of/", "site.unheard-of"),
        ("http://192.168.10.1/x", "192.168.10.1"),
        ("http://[2001:DB8::1]:80/x", "2001:db8::1"),
        ("http://localhost/x", "localhost"),
        ("//cdn.example.org/x", "example.org"),
        (" https://example.org ", "example.org"),
        ("https:///path", None),
        ("mailto:someone@example.com", None),
        ("example.com/page", None),
        ("http://[broken/", None),
        ("http://a..b/", None),
        ("http://a b.com/", None),
        ("http://xn--.\udcff.com/", None),
        ("", None),
    ],
)
def test_a_url_gives_the_domain_that_was_registered(url: str, domain: str | None) -> None:
    assert registrable_domain(url) == domain


def test_values_become_text() -> None:
    for value, text in (
        ("a", "a"), (7, "7"), (1.5, "1.5"), (True, "true"), (["MIT", "é"], '["MIT","é"]'), ({"a": [1]}, '{"a":[1]}'),
        ({"at": datetime.date(2024, 2, 1)}, '{"at":"2024-02-01"}'), (datetime.datetime(2024, 2, 1, 3), "2024-02-01T03:00:00"),
        (decimal.Decimal("1.50"), "1.50"), (b"\x01\xff", "01ff"), (None, None), ([], None), ({}, None),
    ):  # fmt: skip
        assert as_text(value) == text


def test_a_value_that_says_nothing_or_is_too_long_is_null_and_the_long_one_is_counted() -> None:
    too_long = [0] * 6
    values = column_values(
        ["", "http://a.com", "x" * MAX_VALUE_CHARACTERS, "y" * (MAX_VALUE_CHARACTERS + 1), 3, None], too_long
    )
    assert values == [None, "a.com", "x" * MAX_VALUE_CHARACTERS, None, "3", None]
    assert too_long == [0, 0, 0, 1, 0, 0]


def test_the_columns_to_keep_have_one_order_and_each_once() -> None:
    fields = ColumnFields(keep=("title", "author", "title", "licence", "url", "id"), language="lang")
    assert fields.keep == ("author", "title", "url")
    assert fields.columns == ("id", "host", "licence", "language", "date", "author", "title", "url")
    assert fields.fields == ("id", "url", "licence", "lang", "date", "author", "title", "url")
    assert fields == ColumnFields(keep=("url", "title", "author"), language="lang")


@pytest.mark.parametrize(
    ("name", "source"), [("file", "the input files"), ("position", "the input files"), ("host", "field 'url'")]
)
def test_a_field_whose_column_is_taken_is_refused(name: str, source: str) -> None:
    with pytest.raises(
        UserError, match=rf"--keep {name}: the column '{name}' is taken from {source}.* leave this --keep out"
    ):
        ColumnFields(keep=(name,))


def test_a_label_of_another_field_takes_the_name_of_its_column() -> None:
    with pytest.raises(UserError, match=r"--keep licence: the column 'licence' is taken from field 'license'"):
        ColumnFields(keep=("licence",), licence="license")
    assert ColumnFields(keep=("license",)).keep == ("license",)


def test_no_command_imports_arrow_or_the_suffix_list_before_it_needs_them() -> None:
    script = (
        "import sys; import tokenizer.__main__, tokenizer.encoding.merge, tokenizer.verify_shards; "
        "sys.exit(', '.join({'pyarrow', 'publicsuffixlist'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
