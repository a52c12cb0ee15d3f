"""Tables that commands print."""

from collections.abc import Sequence

from rich.table import Table

from fanal.shown import on_one_line
from tokenizer.shards.verify import VerifyResult
from tokenizer.vocabulary.check import GroupReport


def verify_table(results: Sequence[VerifyResult]) -> Table:
    """Return the finding of each shard, one row each."""
    table = Table("shard", "documents", "tokens", "finding")
    for result in results:
        counts = ["" if count is None else f"{count:,}" for count in (result.num_documents, result.num_tokens)]
        finding = "FAILED" if result.failed else "not read" if result.cut_short else "ok"
        table.add_row(on_one_line(result.prefix), *counts, finding)
    return table


def check_table(by: str, reports: Sequence[GroupReport]) -> Table:
    """Return how a tokenizer fits the documents of each domain or language, one row each."""
    table = Table(
        *(by, "documents", "tokens", "bytes per token", "tokens per word", "byte fallback"),
        *("normalized", "not restored", "tokenizer.json differs"),
    )
    for report in reports:
        table.add_row(
            on_one_line(report.name),
            f"{report.num_documents:,}",
            f"{report.num_tokens:,}",
            "" if report.bytes_per_token is None else f"{report.bytes_per_token:.3f}",
            "" if report.fertility is None else f"{report.fertility:.3f}",
            "" if report.byte_fallback_share is None else f"{report.byte_fallback_share:.3%}",
            f"{report.num_altered_documents:,}",
            f"{report.num_round_trip_failures:,}",
            "not compared" if report.num_fast_differences is None else f"{report.num_fast_differences:,}",
        )
    return table
