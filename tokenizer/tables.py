"""Tables that commands print."""

from collections.abc import Sequence

from rich.table import Table

from fanal.shown import on_one_line
from tokenizer.overlap.report import OverlapReport
from tokenizer.verify_shards import VerifyResult
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


def overlap_table(report: OverlapReport) -> Table:
    """Return what each training shard holds of the held-out side, one row each, and what all of them hold."""
    n = f"{report.ngram} {report.by}"
    table = Table(
        *("shard", "documents", "overlapping", "held-out documents found", "20 % or more", "80 % or more"),
        f"n-grams of {n} found",
    )
    rows = [
        (one.prefix, one.num_documents, one.check.overlapping_documents, one.check.counts) for one in report.training
    ]
    if len(rows) > 1:
        rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows), report.counts))
    for prefix, documents, overlapping, counts in rows:
        found = (counts.found_documents, counts.found_20_percent, counts.found_80_percent)
        table.add_row(
            on_one_line(prefix),
            f"{documents:,}",
            f"{overlapping:,}",
            *(f"{count:,} of {counts.num_documents:,}" for count in found),
            f"{counts.found_ngrams:,} of {counts.num_ngrams:,}",
        )
    return table
