"""The certificate of an export: what it was compared with, and how close the two are."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.links import read_inside
from pretrain.convert.theirs.certified import CERTIFICATE, read_certified
from pretrain.report.chart import details, table
from pretrain.report.markup import Markup, element, name
from pretrain.report.quantities import figure, size

MAX_TEXTS = 50


def certificate_parts(folder: Path) -> Iterator[Markup]:
    """Yield the certificate of an export, after every file of it was compared with the certificate.

    Raises: UserError if the folder has none; DamagedExportError if it, or a file, is not what was written.
    """
    certified = read_certified(folder)
    if certified is None:
        raise UserError(
            f"--export ({folder}) must be a folder that fanal export has written, and it has no {CERTIFICATE}; --export "
            "demo/export works after make demo"
        )
    certified.check()
    content = json.loads(read_inside(folder, CERTIFICATE))
    figures, checkpoint = content["figures"], content["checkpoint"]
    yield element(
        "p",
        "Export ",
        name(folder),
        f": {content['verdict']}, {content['date']}. It was compared with checkpoint ",
        name(checkpoint["name"]),
        " of step ",
        f"{checkpoint['step']:,}; every file was compared with the certificate for this report.",
    )
    yield table(["what was compared", "figure"], list(_rows(figures, content)))
    texts = figures.get("texts") or []
    rows = [
        [
            name(text["name"]), f"{text['num_tokens']:,}", figure(text["largest_logit_difference"], 3),
            figure(text.get("our_loss")), figure(text.get("their_loss")),
        ]
        for text in texts[:MAX_TEXTS]
    ]  # fmt: skip
    yield details("Texts", table(["text", "tokens", "largest difference of a logit", "our loss", "its loss"], rows))
    files = [
        [name(entry["path"]), size(entry["bytes"]), element("code", entry["sha256"])] for entry in content["files"]
    ]
    yield details("Files", table(["file", "size", "SHA-256"], files[:MAX_TEXTS]))


def _rows(figures: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[list[object]]:
    yield ["largest difference of a logit", figure(figures.get("largest_logit_difference"), 3)]
    yield ["bound", figure(content.get("bound"), 3)]
    yield ["largest difference of a hidden state", figure(figures.get("largest_state_difference"), 3)]
    yield ["same likeliest token", f"{100 * figures['top1_agreement']:.2f} % of positions"]
    yield ["loss of the trained model", figure(figures.get("our_loss"), 6)]
    yield ["loss of the export", figure(figures.get("their_loss"), 6)]
    tokenizer = figures.get("tokenizer") or {}
    yield ["tokenizer compared with", name(tokenizer.get("oracle", "–"))]
    yield ["texts that it splits otherwise", figure(tokenizer.get("num_different"))]
