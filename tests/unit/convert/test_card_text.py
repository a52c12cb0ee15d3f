"""Text from elsewhere in a model card: a renderer shows it, and a reader of its header finds no key that nobody wrote."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from fanal.shown import on_one_line
from pretrain.convert.exporting.markdown import as_text, front_matter, table
from pretrain.convert.exporting.model_card import is_language

TEXTS = (
    "<script>alert(1)</script>", "![x](http://evil.example/x.png)", "[x](javascript:alert(1))", "a | b", "`a`", "``` `` `", "*a* _b_ __c__",
    "a\nb", "fr\nlicense: mit", "x\n---\nlicense: mit\n---\n", "# a", "<img src=x onerror=y>", "http://evil.example", "www.evil.example",
    "&lt;b&gt; &amp;", "\\|", "\\", "a\\", "a\x1b[2J\u202e", "\udcff", "~~a~~", "$x$", "https://a@b:c", "", " ", "`", "a@evil.example", "``",
)  # fmt: skip
SAFE = (
    "prose",
    "train-code",
    "web_text",
    "CC-BY-4.0",
    "Apache-2.0 OR MIT",
    "zh-Hant",
    "文学",
    "Wikipédia",
    "runs/tiny",
    "NVIDIA H100 80GB HBM3",
)


def rendered(markdown: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)


def words(html: str) -> str:
    """What a reader sees of a fragment."""
    plain = re.sub(r"<[^>]*>", "", html)
    for entity, letter in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        plain = plain.replace(entity, letter)
    return plain


@pytest.mark.parametrize("text", TEXTS)
def test_a_renderer_shows_a_text_and_obeys_none(text: str) -> None:
    shown = as_text(text)
    assert "\n" not in shown
    for markdown in (
        f"# {shown}, step 1\n",
        f"a {shown} b\n",
        table(("a", "b"), [(shown, f"x {shown} y"), ("1", "2")]),
    ):
        html = rendered(markdown)
        tags = set(re.findall(r"<(\w+)", html))
        assert tags <= {"h1", "p", "code", "table", "thead", "tbody", "tr", "th", "td"}, html
        assert (on_one_line(text).strip() or "(empty)" if not text else on_one_line(text).strip()) in words(html), html
        assert html.count("<td>") in (0, 4), html


@pytest.mark.parametrize("text", SAFE)
def test_an_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert as_text(text) == text


@pytest.mark.parametrize("text", [*TEXTS, *SAFE, "no", "on", "1.0", "null", "en"])
def test_no_text_adds_a_key_to_the_header(text: str) -> None:
    card = f"{front_matter({'library_name': 'transformers', 'language': [text, 'fr'], 'license': text})}\n# x\n\n---\nlicense: mit\n---\n"
    line = on_one_line(text)
    content = {"library_name": "transformers", "language": [line, "fr"], "license": line}
    assert yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n")) == content
    found = ModelCard(card).data.to_dict()
    assert found == content or not text  # an empty licence is left out there


def test_a_language_of_the_card_is_one() -> None:
    assert all(map(is_language, ("fr", "fra", "zh-Hant", "code", "no")))
    assert not any(
        map(is_language, ("mul", "und", "zxx", "mis", "Python", "C++", "fr\nlicense: mit", "x-y", "", "prose"))
    )
