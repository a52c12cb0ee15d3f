"""What a run read, as drafts print it: sizes, sources, languages, licences, hosts, dates, what was held out and what was removed.

The size of a source is that of its different tokens which were read: what was read several times counts once.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.convert.exporting.markdown import as_text
from pretrain.drafts.facts import Facts
from pretrain.drafts.figures import Figure, in_range, percent, rows

TEXT_SIZES = ((1e9 - 1, "Less than 1 billion tokens"), (1e13, "1 billion to 10 trillion tokens"))
LARGEST_SIZE = "More than 10 trillion tokens"
NOT_STATED = "not stated"
TOP_PERCENT, SME_PERCENT, SME_MOST = 10, 5, 1_000
"""Domain names that a public summary lists: those in the top 10 % by size; of small and medium-sized companies the top 5 %, or
1,000 if these are fewer."""
LABELS = ("domain", "origin", "licence", "language")
"""What may be said of a source."""
BY_SOURCE = "ledger data.in_all.by_source"
BY_HOST = "ledger data.in_all.by_host"


def num_tokens(facts: Facts) -> int:
    """Different tokens that were read."""
    return sum(facts.follow(f"{BY_SOURCE}[].distinct_tokens"))


def size_range(facts: Facts) -> Figure | None:
    """The range of the template that the text lies in; None where nothing was read."""
    if not num_tokens(facts):
        return None
    return Figure(
        text=in_range(num_tokens(facts), TEXT_SIZES, LARGEST_SIZE),
        where=(f"{BY_SOURCE}[].distinct_tokens",),
        how=f"{num_tokens(facts):,} different tokens in all",
    )


def size(facts: Facts) -> Figure | None:
    """Different tokens, documents, and tokens with repeats; None where nothing was read."""
    if not num_tokens(facts):
        return None
    documents = sum(facts.follow(f"{BY_SOURCE}[].documents"))
    read = facts.at("ledger data.tokens")
    return Figure(
        text=f"{num_tokens(facts):,} different tokens of {documents:,} documents; training predicted {read:,} tokens, each as "
        "often as it was",
        where=(f"{BY_SOURCE}[].distinct_tokens", f"{BY_SOURCE}[].documents", "ledger data.tokens"),
        how="the first two summed over all sources",
    )


def uncounted(facts: Facts) -> str:
    """What the sizes lack, as the provider has to add it; empty if they lack nothing."""
    start = facts.at("ledger runs[0].started_from")
    if start is None:
        return ""
    return (
        f"what {as_text(start['name'])}, step {start['step']:,}, had been trained on, which the run started from and which is not "
        "counted here"
    )


def sources(facts: Facts) -> Figure | None:
    """A table of every source, the largest first."""
    amounts = {amount["name"]: amount for amount in facts.at(BY_SOURCE)}
    read = [(source, amounts[source["prefix"]]) for source in facts.at("ledger data.sources")]
    found = sorted(
        ((source, amount) for source, amount in read if amount["distinct_tokens"]),
        key=lambda pair: -pair[1]["distinct_tokens"],
    )
    if not found:
        return None
    whole = num_tokens(facts)
    cells = [
        (
            as_text(Path(source["prefix"]).name),
            *(_said(source[key]) for key in LABELS),
            f"{amount['distinct_tokens']:,}",
            percent(amount["distinct_tokens"], whole),
            f"{amount['passes']:.2f}" if amount["passes"] is not None else "–",
        )
        for source, amount in found
    ]
    head = ("source", *LABELS, "different tokens", "share", "passes")
    keys = ("prefix", *(key for key in LABELS if any(source[key] is not None for source, _ in found)))
    return Figure(
        text=rows(head, cells, most=len(cells)),
        where=(*(f"ledger data.sources[].{key}" for key in keys), BY_SOURCE),
        how="labels are those of the whole source; share of the different tokens",
    )


def domains_of_sources(facts: Facts) -> Figure | None:
    """The kinds of text, as the sources call them."""
    names = sorted({str(name) for name in facts.follow("ledger data.sources[].domain")})
    if not names:
        return None
    named = ", ".join(map(as_text, names))
    return Figure(text=f"Sources are called: {named}", where=("ledger data.sources[].domain",))


def by_label(facts: Facts, dimension: str) -> Figure | None:
    """A table of the languages or of the licences, as the dimension names them; None where nothing is said of any document."""
    where = f"ledger data.in_all.by_{dimension}"
    amounts = [amount for amount in facts.at(where) if amount["distinct_tokens"]]
    if not any(amount["name"] is not None for amount in amounts):
        return None
    amounts.sort(key=lambda amount: -amount["distinct_tokens"])
    cells = [
        (
            _said(amount["name"]),
            f"{amount['distinct_tokens']:,}",
            percent(amount["distinct_tokens"], num_tokens(facts)),
            f"{amount['documents']:,}",
        )
        for amount in amounts
    ]
    how = "of each document where its source has columns, else of the whole source"
    return Figure(text=rows((dimension, "different tokens", "share", "documents"), cells), where=(where,), how=how)


def hosts(facts: Facts) -> list[Mapping[str, Any]]:
    """The hosts of the documents that were read, the largest first; those of equal size by name."""
    known = [amount for amount in facts.at(BY_HOST) if amount["name"] is not None and amount["distinct_tokens"]]
    return sorted(known, key=lambda amount: (-amount["distinct_tokens"], amount["name"]))


def top_hosts(facts: Facts) -> list[Mapping[str, Any]]:
    """Those in the top 10 % of all domain names, by the size of their text; at least one, if there are any."""
    found = hosts(facts)
    return found[: _top(len(found), TOP_PERCENT)]


def num_top_of_small_companies(num_hosts: int) -> int:
    """Domain names that a small or medium-sized company lists."""
    return min(_top(num_hosts, SME_PERCENT), SME_MOST)


def domain_names(facts: Facts, *, listed_in: str) -> Figure | None:
    """The largest of the domain names, and how many there are; None where no document says its host."""
    found, top = hosts(facts), top_hosts(facts)
    if not found:
        return None
    known = sum(amount["distinct_tokens"] for amount in found)
    cells = [(as_text(amount["name"]), f"{amount['distinct_tokens']:,}", f"{amount['documents']:,}") for amount in top]
    listed = rows(("domain name", "different tokens", "documents"), cells, most=20)
    small = num_top_of_small_companies(len(found))
    return Figure(
        text=f"{len(found):,} domain names, with {percent(known, num_tokens(facts))} of the different tokens; the top "
        f"{TOP_PERCENT} % by size are {len(top):,}, all of them in `{listed_in}`. A small or medium-sized company may list the "
        f"first {small:,}.\n\n"
        f"{listed}",
        where=(BY_HOST,),
        how="sorted by different tokens that were read; registrable domains, by the public suffix list",
    )


def without_host(facts: Facts) -> str:
    """The sources whose documents do not say their host, as the provider has to add them; empty if all do."""
    lacking = [
        as_text(Path(source["prefix"]).name)
        for source in facts.at("ledger data.sources")
        if "host" not in source["known_by_document"]
    ]
    if not lacking:
        return ""
    named = ", ".join(lacking[:20]) + (f" and {len(lacking) - 20:,} more" if len(lacking) > 20 else "")
    return f"the domain names in sources without a column of hosts, if they were crawled: {named}"


def latest_date(facts: Facts) -> Figure | None:
    """The latest date that a document states."""
    dates = facts.at("ledger data.dates")
    if dates["last"] is None:
        return None
    return Figure(
        text=f"{as_text(dates['last'])} is the latest date that a document states, {as_text(dates['first'])} the earliest; "
        f"{dates['documents']:,} documents state one, {dates['other_documents']:,} do not",
        where=tuple(f"ledger data.dates.{key}" for key in ("last", "first", "documents", "other_documents")),
    )


def held_out(facts: Facts) -> Figure | None:
    """What runs validate on."""
    found = facts.at("ledger data.held_out")
    if not found:
        return None
    cells = [
        (as_text(Path(held["prefix"]).name), as_text(held["by"]), f"{held['tokens']:,}", f"{held['documents']:,}")
        for held in found
    ]
    keys = ("prefix", "by", "tokens", "documents")
    return Figure(
        text=rows(("text", "held out by", "tokens", "documents"), cells),
        where=tuple(f"ledger data.held_out[].{key}" for key in keys),
    )


def removed(facts: Facts) -> Figure | None:
    """The documents that were taken out of shards, and why."""
    cells = [
        (as_text(Path(source["prefix"]).name), f"{exclusion['num_documents']:,}", as_text(exclusion["reason"]))
        for source in facts.at("ledger data.sources")
        for exclusion in source["exclusions"]
    ]
    if not cells:
        return None
    return Figure(
        text=rows(("source", "documents removed", "reason"), cells), where=("ledger data.sources[].exclusions",)
    )


def overlap(facts: Facts) -> Figure | None:
    """What was found of held-out or benchmark texts in the sources."""
    cells = [cell for source in facts.at("ledger data.sources") for cell in _checks(source)]
    if not cells:
        return None
    head = ("source", "n-grams of", "held-out documents", "of which found", "documents of the source with overlap")
    return Figure(text=rows(head, cells), where=("ledger data.sources[].overlap",))


def _checks(source: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for check in source["overlap"]:
        counts = check["counts"]
        yield (
            as_text(Path(source["prefix"]).name),
            f"{check['ngram']} {as_text(check['by'])}",
            f"{counts['num_documents']:,}",
            f"{counts['found_documents']:,}",
            f"{check['overlapping_documents']:,}",
        )


def _top(count: int, share: int) -> int:
    return math.ceil(count * share / 100)


def _said(value: str | None) -> str:
    return NOT_STATED if value is None else as_text(value)
