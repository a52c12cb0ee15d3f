"""The check that a run may resume from a checkpoint's position in the data: the same tokens in the same order so far."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import PurePath

from fanal.errors import UserError
from pretrain.data.blend import Blend
from pretrain.data.position import DataPosition, PhasePosition, SourcePosition

MOST_NAMED = 20
"""Differences, and sources of one, that a message names."""


def check_same_data(saved: DataPosition, now: DataPosition, *, where: str) -> None:
    """Refuse to continue with other tokens, or in another order, than those that led to ``saved``.

    Paths may differ, and so may mixtures that had not given a sample yet. Args: now: the position from the configuration,
    after as many samples; where: the checkpoint's name. Raises: UserError naming each difference.
    """
    differences = data_differences(saved, now)
    if differences:
        more = f"; and {len(differences) - MOST_NAMED:,} more differences" if len(differences) > MOST_NAMED else ""
        raise UserError(
            f"checkpoint {where} was trained on other data: {'; '.join(differences[:MOST_NAMED])}{more}. Restore these, or start "
            "a new run in another run_dir; to change the mixture from now on, add it to data.phases with "
            f"start_sample={saved.consumed_samples}"
        )


def data_differences(saved: DataPosition, now: DataPosition) -> list[str]:
    """Return what makes the samples so far other ones than those that led to ``saved``. Args: as ``check_same_data``."""
    return list(_differences(saved, now))


def _differences(saved: DataPosition, now: DataPosition) -> Iterator[str]:
    for name in ("tokenizer_sha256", "seq_length", "seed"):
        before, after = getattr(saved, name), getattr(now, name)
        if before != after:
            yield f"{name} (checkpoint {_short(before)}, config {_short(after)})"
    old, new = _started(saved), _started(now)
    if [phase.start_sample for phase in old] != [phase.start_sample for phase in new]:
        yield (
            f"start_sample of the mixtures that have started (checkpoint {[phase.start_sample for phase in old]}, config "
            f"{[phase.start_sample for phase in new]})"
        )
        return
    found = False
    known = tuple({source.identity: source for source in position.sources} for position in (saved, now))
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        for difference in _mixture_differences(before, after, *known):
            found = True
            yield f"{'data.train' if number == 0 else f'data.phases[{number - 1}].train'}: {difference}"
    if not found:
        yield from _cut_and_cursor_differences(saved, now, {share.identity for phase in old for share in phase.sources})


def _started(position: DataPosition) -> list[PhasePosition]:
    return [phase for phase in position.phases if phase.start_sample < position.consumed_samples]


def _mixture_differences(
    before: PhasePosition, after: PhasePosition, old: dict[str, SourcePosition], new: dict[str, SourcePosition]
) -> Iterator[str]:
    """Args: old, new: the sources of both sides by their identity."""
    old_ids, new_ids = ([share.identity for share in phase.sources] for phase in (before, after))
    were, are = set(old_ids), set(new_ids)
    added = {new[identity].prefix: new[identity] for identity in new_ids if identity not in were}
    named: dict[str, list[str]] = {}
    for prefix in reversed(added):
        named.setdefault(PurePath(prefix).name, []).append(prefix)
    for identity in old_ids:
        if identity not in are:
            was = old[identity]
            namesakes = named.get(PurePath(was.prefix).name, [])
            while namesakes and namesakes[-1] not in added:
                namesakes.pop()
            same_name = namesakes[-1] if namesakes else ""
            if (twin := added.pop(was.prefix if was.prefix in added else same_name, None)) is not None:
                yield (
                    f"the tokens of shard {twin.prefix} are not those it had (checkpoint {was.num_tokens} tokens with sha256 "
                    f"{_short(identity)}, now {twin.num_tokens} with {_short(twin.identity)}): it was encoded again"
                )
            else:
                yield f"shard {was.prefix} ({was.num_tokens} tokens with sha256 {_short(identity)}) is missing"
    yield from (f"shard {prefix} was not in the mixture" for prefix in added)
    if sorted(old_ids) != sorted(new_ids):
        return
    if old_ids != new_ids:
        prefixes = [old[identity].prefix for identity in old_ids[:MOST_NAMED]]
        more = f" and {len(old_ids) - MOST_NAMED:,} more" if len(old_ids) > MOST_NAMED else ""
        yield f"the sources are in a different order (checkpoint {prefixes}{more})"
        return
    if _cuts(before) == _cuts(after):
        return
    old_total, new_total = (sum(Fraction(share.share) for share in phase.sources) for phase in (before, after))
    for was, is_now in zip(before.sources, after.sources, strict=True):
        if Fraction(was.share) * new_total != Fraction(is_now.share) * old_total:
            yield (
                f"the share of {new[was.identity].prefix} (checkpoint weight {was.weight}, epochs {was.epochs}: "
                f"{float(Fraction(was.share) / old_total):.6g} of the mixture; config weight {is_now.weight}, epochs "
                f"{is_now.epochs}: {float(Fraction(is_now.share) / new_total):.6g})"
            )


def _cut_and_cursor_differences(saved: DataPosition, now: DataPosition, read: set[str]) -> Iterator[str]:
    after = {source.identity: source for source in now.sources}
    for was in saved.sources:
        if was.identity not in read:
            continue
        is_now = after[was.identity]
        if was.train_tokens != is_now.train_tokens:
            yield (
                f"data.validation_fraction leaves {is_now.train_tokens} of {was.num_tokens} tokens of shard {is_now.prefix} to "
                f"train on (checkpoint {was.train_tokens})"
            )
        elif was.idx_sha256 != is_now.idx_sha256:
            yield (
                f"the index of shard {is_now.prefix} cuts its tokens into different documents (checkpoint sha256 "
                f"{_short(was.idx_sha256)}, now {_short(is_now.idx_sha256)}), and what is trained on depends on them "
                "(data.document_mask, data.packing, objective)"
            )
        elif was.plan != is_now.plan:
            yield (
                f"the plan of packed rows of shard {is_now.prefix} is another one (checkpoint {_plan(was.plan)}, now "
                f"{_plan(is_now.plan)}): its rows would hold other documents; use the version that wrote the checkpoint"
            )
        elif was.cursor != is_now.cursor:
            yield (
                f"shard {is_now.prefix} had given {was.cursor} samples, and would have given {is_now.cursor} in this version: the "
                "order of samples differs; use the version that wrote the checkpoint"
            )


def _cuts(phase: PhasePosition) -> tuple[int, ...]:
    """Return what the order of a mixture depends on: weights 3 and 7 cut it where 0.3 and 0.7 do."""
    return Blend(tuple(share.share for share in phase.sources), "").edges


def _plan(plan: str | None) -> str:
    if plan is None:
        return "none"
    algorithm, _, digest = plan.rpartition(":")
    return f"{algorithm} {digest[:12]}"


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else str(value)
