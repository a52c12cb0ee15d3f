"""How often a run reads each of its training sources: arithmetic on what their manifests say."""

from collections.abc import Sequence
from dataclasses import dataclass

from fanal.run_progress import Standing
from pretrain.config.rules import LARGEST_SAMPLE
from pretrain.config.schema import RunConfig
from pretrain.config.steps import consumed_samples_at, last_step, train_samples
from pretrain.data.mixture import Mixture
from pretrain.data.sources import Sources

HARMLESS_PASSES = 4
"""Passes over a source up to which a repeated token is worth about as much as a new one. Source: Muennighoff et al., "Scaling
Data-Constrained Language Models", 2023: up to 4 epochs the loss is nearly that of new data; at 16 most of the gain is gone."""
NAMED = 3
"""Sources that a warning names, at most."""


@dataclass(frozen=True, kw_only=True)
class SourcePasses:
    """One training source over the whole run."""

    prefix: str
    domain: str
    train_tokens: int
    """Tokens that training may read."""
    passes: float
    """Samples that the run takes from it, in those of one pass; above 1 they repeat."""


def source_passes(run: RunConfig, sources: Sources, since: Standing) -> list[SourcePasses]:
    """Return the passes over each training source, when the run has come to its last step. Reads no token."""
    return [
        SourcePasses(
            prefix=str(source.shard.prefix),
            domain=source.domain,
            train_tokens=source.order.num_tokens,
            passes=drawn / source.order.chunks_per_epoch,
        )
        for source, drawn in zip(
            sources.train, _drawn(run, sources, train_samples(run.optim, run.train, since)), strict=True
        )
    ]


@dataclass(frozen=True, kw_only=True)
class PhasePasses:
    """What a run reads of each training source in one phase of its mixture."""

    start_sample: int
    end_sample: int
    """The first sample of the next phase, or the end of the run."""
    samples: tuple[int, ...]
    """Of each training source, in their order."""
    passes: tuple[float, ...]

    def share(self, source: int) -> float:
        """Return the part of the phase's samples that a source gives."""
        return self.samples[source] / (self.end_sample - self.start_sample)


def phase_passes(run: RunConfig, sources: Sources, since: Standing) -> list[PhasePasses]:
    """Return what each phase reads, of those that begin before the run's last step. Reads no token."""
    end = min(train_samples(run.optim, run.train, since), LARGEST_SAMPLE)
    starts = [phase.start_sample for phase in sources.phases if phase.start_sample < end]
    chunks = [source.order.chunks_per_epoch for source in sources.train]
    found, before = [], [0] * len(chunks)
    for start, stop in zip(starts, [*starts[1:], end], strict=True):
        after = list(_drawn(run, sources, stop))
        samples = tuple(more - less for more, less in zip(after, before, strict=True))
        passes = tuple(count / each for count, each in zip(samples, chunks, strict=True))
        found.append(PhasePasses(start_sample=start, end_sample=stop, samples=samples, passes=passes))
        before = after
    return found


def most_read(sources: Sequence[SourcePasses], count: int) -> list[SourcePasses]:
    """Return the sources in their order, or of more than ``count`` those that are read most often."""
    if len(sources) <= count:
        return list(sources)
    return sorted(sources, key=lambda source: -source.passes)[:count]


def passes_warning(run: RunConfig, sources: Sources, since: Standing) -> str | None:
    """Return one line about the sources that are read too often to learn much more from them; None if there are none."""
    often = [source for source in source_passes(run, sources, since) if source.passes > HARMLESS_PASSES]
    if not often:
        return None
    often.sort(key=lambda source: -source.passes)
    named = ", ".join(f"{source.prefix} {passes_text(source.passes)} times" for source in often[:NAMED])
    more = f" and {len(often) - NAMED} more sources" if len(often) > NAMED else ""
    steps = _most_steps(run, sources, since)
    works = "fewer steps, another mixture or more text lower that"
    if steps > since.step:
        works = f"train.train_steps={steps} reads none more often, and more text lowers it"
    return (
        f"warning: the run reads {named}{more}; beyond about {HARMLESS_PASSES} passes a repeated token teaches less and less, and "
        f"beyond 16 hardly anything; {works}"
    )


def passes_text(passes: float) -> str:
    """Return a number of passes with as many digits as tell something."""
    return f"{passes:,.0f}" if passes >= 100 else f"{passes:.3g}"


def _drawn(run: RunConfig, sources: Sources, samples: int) -> Sequence[int]:
    mixture = Mixture(sources.phases, num_sources=len(sources.train), seed=run.data.seed)
    return mixture.drawn(min(samples, LARGEST_SAMPLE)).tolist()


def _most_steps(run: RunConfig, sources: Sources, since: Standing) -> int:
    """Return the most steps of the run after which no source was read too often; the steps done so far if those are too many."""
    allowed = [HARMLESS_PASSES * source.order.chunks_per_epoch for source in sources.train]
    fits, too_many = since.step, last_step(run.optim, run.train, since)
    while too_many - fits > 1:
        steps = (fits + too_many) // 2
        drawn = _drawn(run, sources, consumed_samples_at(run.train, steps, since))
        if all(count <= most for count, most in zip(drawn, allowed, strict=True)):
            fits = steps
        else:
            too_many = steps
    return fits
