"""A report read back: its curves as numbers, its tables as text. The page must be well-formed XML, and HTML that html.parser takes."""

from dataclasses import dataclass
from html.parser import HTMLParser
from math import exp, log
from xml.etree import ElementTree

from pretrain.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

PIXEL = 0.05
"""Half of the last digit of a place in the picture."""
SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "br"}


@dataclass(frozen=True)
class Drawn:
    """A curve, read back from its path."""

    points: list[tuple[float, float]]
    x_error: float
    """Largest error of a number by the rounding of places."""
    y_error: float
    is_log: bool


class Page:
    """A page, parsed twice."""

    def __init__(self, text: str) -> None:
        assert text.startswith("<!DOCTYPE html>\n")
        self.text = text
        self.root = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
        parser = _Nesting()
        parser.feed(text)
        parser.close()
        assert not parser.open, f"these are not closed: {parser.open}"
        self.tags, self.addresses = parser.tags, parser.addresses

    def figures(self) -> dict[str, ElementTree.Element]:
        """Every figure by its title."""
        found = list(self.root.iter("figure"))
        named = {"".join(figure.find("figcaption").itertext()): figure for figure in found}  # type: ignore[union-attr]
        assert len(named) == len(found), "each figure has a title of its own"
        return named

    def curves(self, title: str) -> dict[str, Drawn]:
        """The curves of a figure by their names."""
        svg = next(drawn for drawn in self.figures()[title].iter(f"{SVG}svg") if drawn.get("role") == "img")
        x_low, x_high = map(float, svg.attrib["data-x"].split())
        y_low, y_high, *is_log = svg.attrib["data-y"].split()
        low, high = (log(float(y)) if is_log else float(y) for y in (y_low, y_high))
        across, up = (x_high - x_low) / (WIDTH - RIGHT - LEFT), (high - low) / (HEIGHT - BOTTOM - TOP)
        found = {}
        for path in svg.iter(f"{SVG}path"):
            if (name := path.get("data-name")) is None:
                continue
            places = [tuple(map(float, place.split())) for place in path.attrib["d"][1:].split("L")]
            points = [(x_low + (x - LEFT) * across, low + (HEIGHT - BOTTOM - y) * up) for x, y in places]
            found[name] = Drawn(
                points=[(x, exp(y)) if is_log else (x, y) for x, y in points],
                x_error=PIXEL * across * 1.01 + 1e-9,
                y_error=PIXEL * up * 1.01 + 1e-12,
                is_log=bool(is_log),
            )
        return found

    def table(self, title: str) -> list[dict[str, str]]:
        """The first table in the figure, the details or the section of this title, row by row."""
        holders = [
            holder
            for holder in self.root.iter()
            if holder.tag in ("figure", "details", "section") and "".join(next(iter(holder)).itertext()) == title
        ]
        table = next(holders[0].iter("table"))
        head = ["".join(cell.itertext()) for cell in next(table.iter("thead")).iter("th")]
        rows = next(table.iter("tbody")).iter("tr")
        return [dict(zip(head, ("".join(cell.itertext()) for cell in row), strict=True)) for row in rows]

    def facts(self) -> dict[str, str]:
        """The figures at the head."""
        cards = next(cards for cards in self.root.iter("dl") if cards.get("class") == "cards")
        return {
            "".join(card.find("dt").itertext()): card.find("dd").text or ""  # type: ignore[union-attr]
            for card in cards
        }

    def titles(self) -> list[str]:
        """The sections."""
        return ["".join(title.itertext()) for title in self.root.iter("h2")]

    def words(self) -> str:
        """All text."""
        return " ".join("".join(self.root.itertext()).split())


class _Nesting(HTMLParser):
    """Every start tag has its end tag, as html.parser sees it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"a handler: {name}"
            if name in ("href", "src", "action", "data", "xlink:href", "srcset", "style"):
                self.addresses.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"
