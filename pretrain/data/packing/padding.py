"""The tokens of packed rows that stand for nothing, and the documents that no row holds whole: of each source, as its plan says."""

from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.data.packing.packed_order import PackedOrder
from pretrain.data.packing.plan import Plan
from pretrain.data.sources import Source, Sources

NAMED = 3
"""Sources that a line names, at most."""


@dataclass(frozen=True, kw_only=True)
class SourcePadding:
    """One packed source."""

    prefix: str
    num_rows: int
    padding_share: float
    """Share of the tokens of its rows that stand for nothing."""
    num_cut_documents: int
    """Documents longer than a row."""


def source_padding(sources: Sources) -> list[SourcePadding]:
    """Return the padding of each training source that is packed, the one with the largest share first."""
    found = [
        SourcePadding(
            prefix=str(source.shard.prefix),
            num_rows=plan.num_rows,
            padding_share=plan.padding_share,
            num_cut_documents=plan.num_cut_documents,
        )
        for source in sources.train
        for plan in _plan_of(source)
    ]
    return sorted(found, key=lambda padding: -padding.padding_share)


def padding_line(sources: Sources) -> str | None:
    """Return one line on the padding of packed rows; None where documents are concatenated."""
    found = source_padding(sources)
    if not found:
        return None
    named = ", ".join(f"{padding.prefix} {share_text(padding.padding_share)}" for padding in found[:NAMED])
    more = f" and {len(found) - NAMED} more sources with no more" if len(found) > NAMED else ""
    seq_length = next(plan for source in sources.train for plan in _plan_of(source)).key.seq_length
    rows, cut = sum(padding.num_rows for padding in found), sum(padding.num_cut_documents for padding in found)
    return (
        f"data.packing best_fit: {rows:,} rows of {seq_length:,} tokens an epoch, padding {named}{more}; {cut:,} documents "
        "are longer than a row and are cut, all others are whole in one"
    )


def share_text(share: float) -> str:
    """Return a share in percent, with as many digits as tell something."""
    return f"{100 * share:.3g} %"


def _plan_of(source: Source) -> Sequence[Plan]:
    return [source.order.plan] if isinstance(source.order, PackedOrder) else []
