"""The shards of a configuration, opened and checked against the model, the tokenizer and each other.

Only manifests, file sizes and both ends of every index are read here. Tokens are mapped when a sample needs them, by each
rank for itself.
"""

import math
import os
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fanal.errors import UserError, user_path
from pretrain.config.derive import mixture_weight
from pretrain.config.path_rules import paths_of
from pretrain.config.schema import DataConfig, RunConfig, SourceConfig
from pretrain.data.mixture import Phase
from pretrain.data.objectives.open_objectives import open_objectives
from pretrain.data.objectives.samples import Objectives
from pretrain.data.order import ChunkOrder
from pretrain.data.packing.kept_plans import PlanFolder, plan_folder
from pretrain.data.packing.packed_order import PackedOrder
from tokenizer.shards.shard import Shard, ShardManifest, open_shard
from tokenizer.vocabulary.folder import Tokenizer
from tokenizer.vocabulary.load import load_tokenizer

SHARD_ENDS = ("", ".bin", ".idx", ".json")
"""What follows a prefix in the names of a shard's files; or such a name itself."""
PREFIX_KEY = ".prefix"
"""End of the keys of shards."""
OTHER_OPEN_FILES = 256
"""Most files that a process holds open beside shards."""
NO_PADDING = -1
"""In the place of the id of padding, where a tokenizer has none of its own: no token has it, so every label counts."""
SMALLEST_SHARE = 1e-12
"""Smallest share of a mixture; the blend counts in units of 2**-48."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Tokens [first_token, first_token + order.num_tokens) of a shard, ready to give their chunks, or packed rows, in order."""

    shard: Shard
    identity: str
    """Identity of its tokens (``shard_identity``)."""
    domain: str
    label: str
    """Name that its loss is recorded under: its domain, or what ``labels.py`` makes of it."""
    order: ChunkOrder | PackedOrder
    pad_id: int
    """Id that stands for no text in the shard's tokenizer, or NO_PADDING."""
    first_token: int = 0

    def start_token(self, draw: int) -> int:
        """First token, in the shard, of the chunk that this source gives at a draw (0, 1, 2, ... through all epochs)."""
        assert isinstance(self.order, ChunkOrder), "a packed row is no chunk"
        return self.first_token + self.order.start_token(draw)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Everything a run reads."""

    train: list[Source]
    """Each training source once, by first mention in data.train and data.phases."""
    phases: list[Phase]
    """The mixtures of ``train``, by rising start_sample; the first starts at 0."""
    validation: list[Source]
    """data.validation, then the validation parts of the training sources."""
    tokenizer_sha256: str
    vocab_size: int
    """Vocabulary size of the tokenizer: every id is below it."""
    pad_id: int
    """Id that stands for no text in the tokenizer, or NO_PADDING."""
    fill_id: int = 0
    """Id that stands in what is left of a packed row: that of padding, or where there is none the end of a document."""
    stated: list[list[SourceConfig]] = field(default_factory=list)
    """The configuration's sources of each phase, in the order of its members."""
    objectives: Objectives = field(default_factory=Objectives)
    """What becomes of the samples, and which of their tokens are predicted."""


def shard_identity(manifest: ShardManifest) -> str:
    """Return the identity of a shard's tokens, whatever its path: 64 hexadecimal digits. Nothing else here reads their hash."""
    return manifest.bin_sha256


def is_there(key: str, path: str) -> bool:
    """Return whether anything lies at a path of the data, the value of a key of the configuration. Raises: UserError."""
    with user_path(path):
        return any(os.path.lexists(f"{path}{end}") for end in (SHARD_ENDS if key.endswith(PREFIX_KEY) else ("",)))


def _refuse_elsewhere(run: RunConfig) -> None:
    """Refuse a relative path that leads nowhere from the current folder, such as of a command that was started in another one."""
    seen = set()
    for key, path in paths_of(run).items():
        if path in seen or path.startswith("/") or not key.startswith("data."):
            continue
        seen.add(path)
        if not is_there(key, path):
            what = "the prefix of a shard" if key.endswith(PREFIX_KEY) else "the folder of a tokenizer"
            raise UserError(
                f"{key} ({path}) must be {what}, and there is none "
                f"at {Path.cwd() / path}: a relative path counts from the current folder; start in the folder that it counts from, "
                "or give its absolute path"
            )


def open_sources(run: RunConfig, *, keeps_plans: bool = False) -> Sources:
    """Open every source of a run.

    Args: keeps_plans: whether plans of packed rows are kept in the run's folder, which is made for them; else what is not there is
        made for this process alone.
    Raises: UserError for a tokenizer that is missing or altered, a vocabulary smaller than the tokenizer's, a shard that
    is missing, damaged or made by another tokenizer, one shard twice in a mixture or on both sides, a sequence longer than
    a source, a validation_fraction that leaves one side without a sample, or an objective that names a token that the tokenizer
    does not have.
    """
    _refuse_elsewhere(run)
    tokenizer = load_tokenizer(run.data.tokenizer)
    pad_id = NO_PADDING if tokenizer.ignored_id is None else tokenizer.ignored_id
    objectives = open_objectives(run, tokenizer)
    _allow_open_files(run.data, with_index=objectives.reads_index)
    if run.model.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size ({run.model.vocab_size}) must be at least the {tokenizer.vocab_size} tokens of data.tokenizer "
            f"({run.data.tokenizer}); model.vocab_size={tokenizer.vocab_size} works"
        )
    folder = plan_folder(run.run_dir, writes=keeps_plans)
    opened: dict[str, Shard] = {}
    train: dict[str, Source] = {}
    number_of: dict[str, int] = {}
    parts: list[Source] = []
    phases: list[Phase] = []
    stated: list[list[SourceConfig]] = []
    for name, start_sample, configs in _mixtures(run.data):
        members: dict[str, SourceConfig] = {}
        for config in configs:
            shard = _open(config, run.data, tokenizer, opened)
            identity = shard_identity(shard.manifest)
            if (twin := members.setdefault(identity, config)) is not config:
                raise UserError(_named_twice(name, twin, config))
            if identity in train:
                _refuse_other_domain(name, config, train[identity])
            else:
                number_of[identity] = len(train)
                train[identity], part = _split(config, shard, run.data, pad_id, folder)
                parts += [part] if part is not None else []
        weights = [
            mixture_weight(config, train_tokens=train[identity].order.tokens_per_pass)
            for identity, config in members.items()
        ]
        _refuse_unseen(name, list(members.values()), weights)
        phases.append(
            Phase(start_sample=start_sample, members=tuple(number_of[i] for i in members), weights=tuple(weights))
        )
        stated.append(list(members.values()))
    validation = [
        _validation(config, _open(config, run.data, tokenizer, opened), run.data, pad_id)
        for config in run.data.validation
    ]
    _refuse_overlap(train, validation)
    return Sources(
        train=list(train.values()),
        phases=phases,
        validation=validation + parts,
        tokenizer_sha256=tokenizer.model_sha256,
        vocab_size=tokenizer.vocab_size,
        pad_id=pad_id,
        fill_id=tokenizer.eos_id if tokenizer.ignored_id is None else tokenizer.ignored_id,
        stated=stated,
        objectives=objectives,
    )


def _mixtures(data: DataConfig) -> Iterator[tuple[str, int, Sequence[SourceConfig]]]:
    yield "data.train", 0, data.train
    for number, phase in enumerate(data.phases):
        yield f"data.phases[{number}].train", phase.start_sample, phase.train


def _open(config: SourceConfig, data: DataConfig, tokenizer: Tokenizer, opened: dict[str, Shard]) -> Shard:
    """A shard, opened at its first mention: phases name the same ones again and again."""
    if (shard := opened.get(config.prefix)) is not None:
        return shard
    shard = opened[config.prefix] = open_shard(config.prefix)
    if shard.manifest.tokenizer_sha256 != tokenizer.model_sha256:
        raise UserError(
            f"shard {config.prefix} was encoded with the tokenizer {shard.manifest.tokenizer_sha256[:12]} and data.tokenizer "
            f"({data.tokenizer}) is {tokenizer.model_sha256[:12]}; set data.tokenizer to the one it was encoded with, or encode "
            "the text again"
        )
    return shard


def _domain(config: SourceConfig, shard: Shard) -> str:
    return config.domain or shard.manifest.domain or Path(config.prefix).name


def _validation(config: SourceConfig, shard: Shard, data: DataConfig, pad_id: int, first_token: int = 0) -> Source:
    order = ChunkOrder(
        num_tokens=shard.num_tokens - first_token,
        seq_length=data.seq_length,
        key="",
        name=str(config.prefix),
        shuffle=False,
    )
    identity, domain = shard_identity(shard.manifest), _domain(config, shard)
    return Source(
        shard=shard,
        identity=identity,
        domain=domain,
        label=domain,
        order=order,
        pad_id=pad_id,
        first_token=first_token,
    )


def _split(
    config: SourceConfig, shard: Shard, data: DataConfig, pad_id: int, folder: PlanFolder
) -> tuple[Source, Source | None]:
    """Split a training shard: (what is trained on, what is kept for validation)."""
    fraction, needed = data.validation_fraction, data.seq_length + 1
    train_tokens = shard.num_tokens
    if fraction > 0:
        train_tokens = shard.document_start(int(shard.num_tokens * (1 - fraction)))
        validation_tokens = shard.num_tokens - train_tokens
        if train_tokens < needed or validation_tokens < needed:
            raise UserError(
                f"data.validation_fraction ({fraction}) cuts shard {config.prefix} at a document into {train_tokens} tokens to "
                f"train on and {validation_tokens} for validation, and each part needs a sample of seq_length + 1 = {needed}; "
                "data.validation_fraction=0 with shards in data.validation works"
            )
    identity = shard_identity(shard.manifest)
    key, name = f"{data.seed}/{identity}", str(config.prefix)
    if data.packing == "best_fit":
        order = PackedOrder(
            shard=shard, num_tokens=train_tokens, seq_length=data.seq_length, key=key, name=name, folder=folder
        )
    else:
        order = ChunkOrder(num_tokens=train_tokens, seq_length=data.seq_length, key=key, name=name)
    domain = _domain(config, shard)
    source = Source(shard=shard, identity=identity, domain=domain, label=domain, order=order, pad_id=pad_id)
    return source, _validation(config, shard, data, pad_id, train_tokens) if fraction > 0 else None


def _allow_open_files(data: DataConfig, *, with_index: bool) -> None:
    """Raise the limit of open files, which is often 1,024: each shard holds its tokens open, and its index where documents count,
    or where a spike was looked into, and its plan where it is packed."""
    prefixes = {source.prefix for _, _, configs in _mixtures(data) for source in configs}
    prefixes |= {source.prefix for source in data.validation}
    is_packed = data.packing == "best_fit"
    of_a_shard = 2 if with_index or data.document_mask or is_packed or data.validation_fraction > 0 else 1
    needed = (of_a_shard + is_packed) * len(prefixes) + OTHER_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"data names {len(prefixes)} shards, which need {needed} open files in a process, and this system allows {hard}; merge "
            "shards, or have the limit raised (`ulimit -Hn` shows it)"
        )
    wanted = (2 + is_packed) * len(prefixes) + OTHER_OPEN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def _refuse_other_domain(name: str, config: SourceConfig, first: Source) -> None:
    if config.domain is not None and config.domain != first.domain:
        raise UserError(
            f"{name} sets the domain of {config.prefix} to {config.domain!r}, and it is {first.domain!r} where the same tokens are "
            f"named first ({first.shard.prefix}); a source must have one domain: domain={first.domain} works"
        )


def _refuse_unseen(name: str, configs: Sequence[SourceConfig], weights: Sequence[float]) -> None:
    """A share that arithmetic rounds to nothing is a mistake."""
    total = sum(weights)
    for config, weight in zip(configs, weights, strict=True):
        if not (math.isfinite(total) and weight / total >= SMALLEST_SHARE):
            raise UserError(
                f"{name} gives {config.prefix} a share of {weight:g} in {total:g}, which must be at least {SMALLEST_SHARE:g} of "
                f"the mixture; leave it out, or use weight={max(total, 1) * SMALLEST_SHARE:g}"
                if math.isfinite(total)
                else f"{name} has shares that add up to {total}, which must be finite; weights and epochs near 1 work"
            )


def _named_twice(name: str, first: SourceConfig, second: SourceConfig) -> str:
    """Return the error for tokens that a mixture names twice: they would be read in the same order from both places."""
    if first.epochs is not None and second.epochs is not None:
        works = f"epochs={first.epochs + second.epochs:g}"
    else:
        works = f"weight={mixture_weight(first, train_tokens=1) + mixture_weight(second, train_tokens=1):g}"
    return f"{name} names the same tokens twice: {first.prefix} and {second.prefix}; name them once, with {works}"


def _refuse_overlap(train: dict[str, Source], validation: Sequence[Source]) -> None:
    seen: dict[str, Source] = {}
    for source in validation:
        if (other := seen.setdefault(source.identity, source)) is not source:
            raise UserError(
                f"data.validation names the same tokens twice: {other.shard.prefix} and {source.shard.prefix}; name them once"
            )
        if (twin := train.get(source.identity)) is not None:
            raise UserError(
                f"data.validation shard {source.shard.prefix} holds the same tokens as the training shard {twin.shard.prefix}; "
                "validation text must never be trained on: name another shard, or leave data.validation empty"
            )
