"""HTML and SVG as text. Whatever is not markup is escaped: a path or a label may hold anything."""

import html
import re
from collections.abc import Iterable

from fanal.shown import escaped

NO_CHARACTERS = re.compile("[\ufffe\uffff]")
"""Code points that stand for no character, which XML refuses."""
LONGEST_NAME = 1_000
"""Characters of a name that are shown."""
EMPTY = frozenset({"meta", "br", "circle", "line", "path", "rect", "polyline"})
"""Elements without content: HTML's that have none, and shapes of SVG that need none."""


class Markup(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


def plain(text: object) -> str:
    """Text as it may stand in a page: what would act, such as a change of the direction of writing, is written out."""
    return NO_CHARACTERS.sub("\ufffd", escaped(str(text)))


def element(tag: str, *content: object, **attributes: object) -> Markup:
    """Return an element. It is well-formed both as HTML and as XML.

    Args: content: text, which is escaped, Markup, which is not, None, which is left out, and iterables of these; attributes: None
        leaves one out; ``class_`` is ``class``, and ``stroke_width`` is ``stroke-width``.
    """
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in EMPTY and not content:
        return Markup(f"<{tag}{named}/>")
    return Markup(f"<{tag}{named}>{joined(*content)}</{tag}>")


def joined(*content: object) -> Markup:
    """Return content without an element around it. Args: as of ``element``."""
    return Markup("".join(_parts(content)))


def name(text: object) -> Markup:
    """Return a name that somebody else has chosen: letters written from right to left change nothing around it."""
    words = str(text)
    return element("bdi", words if len(words) <= LONGEST_NAME else f"{words[:LONGEST_NAME]}...")


def _parts(content: Iterable[object]) -> Iterable[str]:
    for part in content:
        if part is None:
            continue
        if isinstance(part, Markup):
            yield part
        elif isinstance(part, Iterable) and not isinstance(part, str | bytes):
            yield from _parts(part)
        else:
            yield html.escape(plain(part))
