"""The configuration of a run, and what differs between its starts."""

from collections.abc import Iterator

from pretrain.config.load import to_yaml
from pretrain.report.chart import details, table
from pretrain.report.markup import Markup, element, name
from pretrain.report.view import RunView

MAX_LINES = 2_000
"""Lines of a configuration: one of 50,000 sources is cut."""
MAX_CHANGES = 100
"""Changes of a start that are listed."""
MAX_STARTS = 100


def configuration_parts(view: RunView) -> Iterator[Markup]:
    """Yield the changes and the configuration."""
    changed = [start for start in view.starts.values() if start.changes]
    if changed:
        rows = [[f"{start.number}", _changes(start.changes)] for start in changed[-MAX_STARTS:]]
        yield table(["start", "what differs from the start before"], rows)
    elif len(view.starts) > 1:
        yield element("p", "All starts had the same configuration.")
    if view.config is not None:
        lines = to_yaml(view.config).splitlines()
        text = "\n".join(lines[:MAX_LINES])
        more = f"\n(and {len(lines) - MAX_LINES:,} more lines)" if len(lines) > MAX_LINES else ""
        yield details("Resolved configuration of the newest start", element("pre", text + more))
    record = view.log.newest_start
    about = {
        "model and layout": record.get("headline"),
        "optimizer": record.get("optimizer"),
        "attention": record.get("attention"),
        "deterministic": record.get("deterministic"),
        "libraries": ", ".join(f"{key} {value}" for key, value in _mapping(record.get("versions")).items()),
    }
    rows = [[key, name(value)] for key, value in about.items() if value not in (None, "")]
    if rows:
        yield table(["what", "newest start"], rows)


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _changes(changes: tuple[str, ...]) -> Markup:
    more = [f"and {len(changes) - MAX_CHANGES:,} more"] if len(changes) > MAX_CHANGES else []
    return element("ul", [element("li", name(line)) for line in (*changes[:MAX_CHANGES], *more)], class_="plain")
