"""The look of a report: on any width, in light and in dark, and on paper. No font, image or script from anywhere."""

LIGHT = ("#0b62c4", "#b34a00", "#08734f", "#8a2bb0", "#bf2237", "#735700", "#006a84", "#5a5a5a")
DARK = ("#6cb0ff", "#ff9d4d", "#4cd0a0", "#d38cf5", "#ff7d85", "#d9b84a", "#4fc8e4", "#b5b5b5")
"""Colours of curves: each stands out from its page by more than 4.5 to 1."""

_RULES = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1b1f24; --quiet: #57606a; --line: #d5d9de; --panel: #f5f7f9;
  --alert: #b3261e; LIGHT_COLOURS }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --text: #e8eaed; --quiet: #a5adb6; --line: #3a4149; --panel: #1d2126;
  --alert: #ff8a80; DARK_COLOURS } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 74rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.6rem; border-bottom: 1px solid var(--line); padding-bottom: 0.2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 0.4rem; }
a { color: var(--c0); }
nav ul, .legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; margin: 0.3rem 0; padding: 0; }
.legend { font-size: 0.85rem; } .legend svg { margin-right: 0.4rem; vertical-align: middle; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.6rem; margin: 1rem 0; }
.cards div { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 0.5rem 0.7rem; }
.cards dt { color: var(--quiet); font-size: 0.8rem; } .cards dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
.cards small { display: block; font-weight: 400; font-size: 0.8rem; color: var(--quiet); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; align-items: start; }
figure { margin: 0; min-width: 0; max-width: 38rem; } figcaption { font-weight: 600; margin-bottom: 0.2rem; }
figure svg[role=img] { display: block; width: 100%; height: auto; }
svg text { font: 12.5px system-ui, sans-serif; fill: var(--quiet); unicode-bidi: isolate; }
.grid { stroke: var(--line); fill: none; } .axis { stroke: var(--quiet); fill: none; }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .faint { stroke-opacity: 0.7; stroke-width: 1.2; }
.mark { stroke: var(--quiet); stroke-dasharray: 3 3; fill: none; } .flag { fill: var(--alert); stroke: none; }
.note { color: var(--quiet); font-size: 0.85rem; margin: 0.3rem 0; } .alert { color: var(--alert); font-weight: 600; }
details { margin: 0.4rem 0; } summary { cursor: pointer; color: var(--quiet); font-size: 0.9rem; }
.scroll { overflow-x: auto; max-width: 100%; position: relative; }
table { border-collapse: collapse; margin: 0.4rem 0 0.8rem; }
table { font-size: 0.82rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; color: var(--quiet); padding-bottom: 0.2rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.2rem 0.6rem 0.2rem 0; text-align: right; vertical-align: top; }
th:first-child, td.text, th.text { text-align: left; } tbody th { font-weight: 400; }
td.text { min-width: 6rem; max-width: 34rem; overflow-wrap: anywhere; } td ul.plain { margin: 0; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem; font-size: 0.8rem; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; }
ul.plain { padding-left: 1.2rem; } footer { margin-top: 3rem; color: var(--quiet); font-size: 0.85rem; }
@media (max-width: 34rem) { body { padding: 0.7rem; font-size: 15px; } svg text { font-size: 14.5px; }
  .cards { grid-template-columns: repeat(2, 1fr); } }
@media print { :root { --page: #ffffff; --text: #000000; --quiet: #444444; --line: #bbbbbb; --panel: #ffffff; --alert: #a00000;
  LIGHT_COLOURS } body { max-width: none; font-size: 10pt; padding: 0; } nav { display: none; }
  figure, .cards div, tr { break-inside: avoid; } h2, h3, figcaption { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
  .charts { grid-template-columns: 1fr 1fr; } .scroll { overflow: visible; } table { font-size: 7.5pt; } a { color: inherit; } }
"""


def style_sheet() -> str:
    """Return the rules of a report."""
    rules = _RULES.replace("LIGHT_COLOURS", _variables(LIGHT)).replace("DARK_COLOURS", _variables(DARK))
    classes = (
        f".c{number} {{ stroke: var(--c{number}); }} .dot.c{number}, .area.c{number} {{ fill: var(--c{number}); }}"
        for number in range(len(LIGHT))
    )
    return rules + "\n".join(classes) + "\n"


def _variables(colours: tuple[str, ...]) -> str:
    return " ".join(f"--c{number}: {colour};" for number, colour in enumerate(colours))
