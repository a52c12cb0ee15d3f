"""Whatever a name holds, a page stays well-formed and shows it as text."""

from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pretrain.report import markup
from pretrain.report.chart import Chart, Line, Mark, chart_figure, table
from pretrain.report.markup import Markup, element, joined, name
from pretrain.report.quantities import count, figure, labels, log_ticks, size, ticks, when

HOSTILE = (
    "</script><script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "a & b &amp; <b>", "\u202eevil\u202c", "\u200frtl\u200e",
    "עברית", "\x00\x1b[31m\x7f", "\ud800", "\ufffe\uffff", "a\nb\tc", "]]>", "<!--", "x" * 5_000, "https://example.org/x.js",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_is_text_wherever_it_stands(text: str) -> None:
    drawn = joined(
        table([name(text)], [[name(text)]], caption=text),
        chart_figure(
            Chart(title=text, x_label=text, y_label=text, lines=[Line(label=text, points=[(0, 1), (1, 2)], look=0, dots=True)] * 2,
                  marks=[Mark(x=0.5, words=text), Mark(x=0.5, y=1.5, words=text)]),
            note=text,
        ),
    )  # fmt: skip
    page = element("main", drawn, title=text)
    root = ElementTree.fromstring(page)
    assert {found.tag.rpartition("}")[2] for found in root.iter()} <= {
        "main", "table", "caption", "thead", "tbody", "tr", "th", "td", "bdi", "figure", "figcaption", "svg", "title", "desc", "path",
        "text", "circle", "ul", "li", "p",
    }  # fmt: skip
    assert not any(character in page for character in "\u202e\x00\x1b\x7f\ufffe\uffff")
    page.encode()


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_any_text_is_read_back_from_content_and_attributes(content: str, value: str) -> None:
    root = ElementTree.fromstring(element("p", content, title=value))
    kept = markup.plain(content).replace("\r", "\n")
    assert (root.text or "") == kept
    assert "".join(root.attrib["title"].split()) == "".join(markup.plain(value).split())


def test_a_builder_that_forgets_to_escape_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markup, "plain", Markup)
    monkeypatch.setattr(markup.html, "escape", str)
    with pytest.raises((ElementTree.ParseError, AssertionError)):
        test_a_hostile_name_is_text_wherever_it_stands(HOSTILE[0])


@given(st.floats(-1e15, 1e15), st.floats(1e-9, 1e15))
@example(low=1e-06, span=1e-09)
def test_ticks_are_few_round_and_told_apart(low: float, span: float) -> None:
    high = low + span
    if not high > low or span < 1e-9 * abs(low):
        return
    found = ticks(low, high)
    slack = (high - low) * 1e-6
    assert 1 <= len(found) <= 6 and found == sorted(found)
    assert low - slack <= found[0] and found[-1] <= high + slack
    if span > 1e-4 * abs(high):
        assert len(set(labels(found))) == len(found)


@given(st.floats(1e-12, 1e12), st.floats(1.0, 1e20))
def test_ticks_of_a_logarithmic_axis_lie_on_it(low: float, ratio: float) -> None:
    found = log_ticks(low, low * ratio)
    assert 1 <= len(found) <= 12 and all(low * 0.999 <= tick <= low * ratio * 1.001 for tick in found)


def test_quantities_are_written_as_people_read_them() -> None:
    assert [count(number) for number in (0, 99_999, 123_456, 2_400_000_000, 3e12)] == [
        "0",
        "99,999",
        "123.5 k",
        "2.4 B",
        "3 T",
    ]
    assert [figure(number) for number in (None, 0.0123456, 12_345.6, float("nan"))] == [
        "–",
        "0.01235",
        "12,346",
        "not finite",
    ]
    assert [size(number) for number in (0, 1023, 1024, 5 * 2**30, 2**70)] == [
        "0 B", "1023 B", "1.00 KiB", "5.00 GiB", "1048576.00 PiB",
    ]  # fmt: skip
    assert [when(0), when(None), when(1e300), when(float("inf"))] == ["1970-01-01 00:00:00 UTC", "–", "–", "–"]
    assert labels([0, 500_000, 1_000_000]) == ["0", "500 k", "1,000 k"]
    assert labels([0.0, 0.5, 1.0]) == ["0.0", "0.5", "1.0"]
