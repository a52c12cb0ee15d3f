"""The names under which losses are recorded: one for each source, and no more of them than a record should have.

A record with a loss for each of 1,000 domains is 35 KB of JSON and 66 KB of TensorBoard, and nobody reads 1,000 curves. So at most
``log.max_domains`` names are kept, those with the largest shares of the mixture, and what is left has one name together. Which
name a sample counts for is decided here, once; the losses themselves are exact sums over the tokens of a name.
"""

from collections.abc import Sequence
from dataclasses import replace

from pretrain.config.schema import LogConfig
from pretrain.data.mixture import Phase
from pretrain.data.sources import Source, Sources

OTHER = "other"
"""Name of what is recorded together. A domain that is called so is among it."""
UNSTATED = "unstated"
"""Language of a shard whose documents did not say."""


def labelled(sources: Sources, log: LogConfig) -> Sources:
    """Return the sources, each with the name that its loss is recorded under."""
    train, validation = ([_stated(source, log) for source in part] for part in (sources.train, sources.validation))
    by_share = _by_share(train, sources.phases)
    kept_train = _kept(by_share, log.max_domains)
    # What training is recorded by comes first, so that the two curves of a name can be compared.
    in_validation = set(validation)
    both = [name for name in by_share if name in in_validation]
    kept_validation = _kept([*both, *validation], log.max_domains)
    return replace(
        sources,
        train=_with_labels(sources.train, train, kept_train),
        validation=_with_labels(sources.validation, validation, kept_validation),
    )


def labels_line(sources: Sources, log: LogConfig) -> str | None:
    """Return one line that says how many names are recorded together; None if none are."""
    lines = []
    for what, part in (("training", sources.train), ("validation", sources.validation)):
        stated, recorded = {_stated(source, log) for source in part}, {source.label for source in part}
        if len(stated) > len(recorded):
            lines.append(f"{len(stated):,} of {what} as {len(recorded):,}")
    if not lines:
        return None
    kind, grouped = (
        ("domains", "; data.train[i].domain or log.losses_by=language groups them")
        if log.losses_by == "domain"
        else ("languages", "")
    )
    return (
        f"losses are recorded by at most log.max_domains ({log.max_domains}) {kind}: {' and '.join(lines)}, those with the "
        f"smallest shares together as '{OTHER}'{grouped}"
    )


def _stated(source: Source, log: LogConfig) -> str:
    return source.domain if log.losses_by == "domain" else source.shard.manifest.language or UNSTATED


def _by_share(names: Sequence[str], phases: Sequence[Phase]) -> list[str]:
    """The names of the training sources, the one with the largest share of any mixture first."""
    largest = dict.fromkeys(names, 0.0)
    for phase in phases:
        shares, total = dict[str, float](), sum(phase.weights)
        for member, weight in zip(phase.members, phase.weights, strict=True):
            shares[names[member]] = shares.get(names[member], 0.0) + weight / total
        for name, share in shares.items():
            largest[name] = max(largest[name], share)
    return sorted(largest, key=lambda name: -largest[name])  # of equal ones, the first that was named


def _kept(names: Sequence[str], most: int) -> set[str]:
    """The names that are recorded: all of them, or the first, with a place left for what remains."""
    distinct = list(dict.fromkeys(names))
    return set(distinct if len(distinct) <= most else distinct[: most - 1])


def _with_labels(sources: Sequence[Source], names: Sequence[str], kept: set[str]) -> list[Source]:
    return [replace(source, label=name if name in kept else OTHER) for source, name in zip(sources, names, strict=True)]
