"""``pretrain export``: a checkpoint of any layout -> a Hugging Face folder with a certificate. No GPU, no torchrun.

The steps: verify the checkpoint, check the target, write to DIR.part, certify what was written, rename it to DIR. Memory: two
blocks of rows while weights are written; while the certificate is made, a layer of each model and the embedding, or the
whole model where it fits (certify.py).
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import UserError
from fanal.links import mode_of_copies
from fanal.progress import Progress
from fanal.records import own_hash
from fanal.shown import on_one_line
from pretrain.checkpoint.disk.tensors import open_tensors
from pretrain.checkpoint.disk.verify import still_there
from pretrain.convert.certificate.certify import Certificate, Memory, certificate_json, certify
from pretrain.convert.certificate.compare import BOUND, mean_loss
from pretrain.convert.certificate.logged import LoggedLoss
from pretrain.convert.certificate.texts import check_samples
from pretrain.convert.exporting.account import Account, account_for
from pretrain.convert.exporting.card_account import warnings
from pretrain.convert.exporting.folder import check_target, part_of, write_small
from pretrain.convert.exporting.model_card import model_card
from pretrain.convert.exporting.weights import WeightFile, index_json, plan_files, write_file
from pretrain.convert.ours.names import hf_tensors
from pretrain.convert.ours.published import PublishedFile, describe_published
from pretrain.convert.ours.source import ExportSource, open_source, what_the_weights_are
from pretrain.convert.ours.target import named
from pretrain.convert.ours.tokenizer_files import json_bytes
from pretrain.convert.theirs.certified import CARD, CERTIFICATE, OWN_HASH
from pretrain.convert.theirs.model import transformers_module
from pretrain.convert.theirs.weights import INDEX_JSON
from pretrain.convert.theirs.write_config import exported_vocab_size, generation_config, hf_config
from pretrain.ledger.co2_option import check_co2_factor
from pretrain.optim.registry import EMA, MASTER

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
"""Name in files of each value of ``--dtype``."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export."""

    dtype: str | None = None
    """Precision of the exported weights, ``bf16`` or ``fp32``; None for the precision of training."""
    max_shard_bytes: int = 5_000_000_000
    """Bytes of tensors in a file, at most."""
    num_samples: int = 4
    """Number of complete samples that the certificate is made on, edge cases not counted."""
    with_shards: bool = True
    """Whether the certificate reads the run's shards; False uses built-in text, where they are not available."""
    adds_bos: bool | None = None
    """Whether the tokenizer puts a BOS in front of a text; None does what the shards' documents do."""
    memory: Memory = "auto"
    """Whether transformers holds the whole model for the certificate, or a layer at a time."""
    date: str
    """Date of the certificate, as YYYY-MM-DD."""
    licence: str | None = None
    """Licence of the model, for its card."""
    ema: bool = False
    """Whether the moving average of the weights is exported in their place (optim.ema_decay)."""
    co2_g_per_kwh: float | None = None
    """Grams of CO2 a kilowatt hour, of the place and time of the run; None leaves CO2 out of the card."""

    def __post_init__(self) -> None:
        """Refuse a licence that would add lines to the card's header, and a factor that is none. Raises: UserError."""
        check_co2_factor(self.co2_g_per_kwh)
        if self.licence is not None and not self.licence.isprintable():
            raise UserError(f"--licence ({self.licence!r}) must be printable and on one line; apache-2.0 works")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Result of an export."""

    folder: Path
    source: ExportSource
    certificate: Certificate
    dtype: str
    num_bytes: int
    account: Account
    """What the run's ledger says of the checkpoint."""


def export(checkpoint: str | Path, to: str | Path, options: ExportOptions, overrides: Sequence[str] = ()) -> Exported:
    """Write the folder ``to`` from a checkpoint, or from a run's newest complete one.

    Raises: UserError for input that must change; DamagedCheckpointError; CertificateError if what was written is not the model
    that was trained. Nothing is left under the name ``to`` then.
    """
    final = named(to)
    transformers_module()  # before hours of work
    check_target(final, weight_bytes=0)
    if options.max_shard_bytes < 1:
        raise UserError(f"--max-shard-bytes ({options.max_shard_bytes}) must be above 0; 5000000000 works")
    if options.num_samples < 1:
        raise UserError(f"--samples ({options.num_samples}) must be above 0; 4 works")
    if not _is_date(options.date):
        raise UserError(f"--date ({options.date}) must be a day as YYYY-MM-DD; 2025-12-31 works")
    state = EMA if options.ema else MASTER
    source = open_source(
        checkpoint, overrides, with_shards=options.with_shards, adds_bos=options.adds_bos, weights_state=state
    )
    check_samples(source, options.num_samples)
    dtype = DTYPES[options.dtype] if options.dtype else source.weights_dtype
    files = plan_files(
        hf_tensors(source.model, vocab_size=exported_vocab_size(source)),
        dtype=dtype,
        max_shard_bytes=options.max_shard_bytes,
    )
    check_target(final, weight_bytes=sum(file.num_bytes for file in files))
    with still_there(source.folder), part_of(final) as part:
        mode = mode_of_copies(source.folder, _paths_in(source.folder)) & source.tokenizer.mode
        entries = write_export(part, source, files, dtype, mode=mode)
        certificate = certify(part, source, dtype=dtype, num_samples=options.num_samples, memory=options.memory)
        account = account_for(source, co2_g_per_kwh=options.co2_g_per_kwh)
        card = model_card(source, certificate, account, dtype=dtype, date=options.date, licence=options.licence)
        write_small(part, CARD, card.encode(), mode=mode)
        entries.append(describe_published(part, CARD))
        entries.sort(key=lambda entry: entry.path)
        content = certificate_json(certificate, source, files=entries, dtype=dtype, date=options.date)
        sealed = json_bytes(content | {OWN_HASH: own_hash(content, OWN_HASH)})
        write_small(part, CERTIFICATE, sealed, mode=mode)
    return Exported(
        folder=final,
        source=source,
        certificate=certificate,
        dtype=dtype,
        num_bytes=sum(entry.bytes for entry in entries),
        account=account,
    )


def write_export(
    part: Path, source: ExportSource, files: Sequence[WeightFile], dtype: str, *, mode: int = 0o666
) -> list[PublishedFile]:
    """Write everything but the card and the certificate, and return sizes and hashes as written. Args: mode: as ``create_file``."""
    small = dict(source.tokenizer.files)
    small["config.json"] = json_bytes(hf_config(source, dtype=dtype))
    small.setdefault("generation_config.json", json_bytes(generation_config(source)))
    if len(files) > 1:
        small[INDEX_JSON] = json_bytes(index_json(files))
    entries = []
    with Progress("export", sum(file.num_bytes for file in files)) as progress, open_tensors(source.folder) as reader:
        done = 0

        def count(num_bytes: int) -> None:
            nonlocal done
            done += num_bytes
            progress.update(done)

        for file in files:
            entries.append(write_file(part, file, reader, count, state=source.weights_state, mode=mode))
    for name, content in small.items():
        write_small(part, name, content, mode=mode)
        entries.append(describe_published(part, name))
    return entries


def _paths_in(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _of_the_log(logged: LoggedLoss) -> list[str]:
    """Return the lines about the validation loss; none where the run has no such data, which other lines say."""
    lines = [
        f"{'validation loss':16}{domain.exported:.6f}  {on_one_line(domain.domain)} (the run logged {domain.logged:.6f})"
        for domain in logged.domains
    ]
    if logged.rows_took_part:
        lines.append(
            "warning: the loss of this export is lower than the log's, because rows without a token took part in the softmax "
            "when this checkpoint was trained, and are not exported"
        )
    return lines


def summary(exported: Exported) -> str:
    """Return the lines that the command prints."""
    found, source = exported.certificate.comparison, exported.source
    what = what_the_weights_are(source)
    ids = exported.certificate.tokenizer
    left_out = source.model.vocab_size - exported_vocab_size(source)
    lines = [
        f"exported        {exported.folder}  ({exported.num_bytes / 1e9:.3g} GB, {exported.dtype}, step {source.state.step})",
        *([f"weights         {what}"] if what is not None else []),
        f"certificate     logits of transformers and of the trainer differ by {found.largest_logit_difference:.1e} at most "
        f"(allowed: {BOUND:g}), over {len(found.texts)} texts",
    ]
    for side, name in (("our_loss", "trainer"), ("their_loss", "transformers")):
        loss = mean_loss(found.texts, side)
        if loss is not None:
            lines.append(f"{'loss':16}{loss:.6f}  {name}")
    before = exported.certificate.loss_before_rounding()
    if before is not None:
        lines.append(f"{'loss':16}{before:.6f}  trainer, before rounding to bfloat16")
    lines += _of_the_log(exported.certificate.logged)
    if ids.oracle == "none":
        lines.append(
            "tokenizer       copied as it was imported; AutoTokenizer loads it (an import has no reference to compare its ids with)"
            if source.tokenizer.is_there
            else "warning: the export has no tokenizer, because the import had none: AutoTokenizer cannot load this folder"
        )
    else:
        lines.append(
            f"tokenizer       {ids.num_documents:,} documents and {ids.num_texts} adversarial texts get the ids of {ids.oracle}"
        )
    if found.longest_text < source.seq_length:
        lines.append(
            f"warning: the longest text that was compared has {found.longest_text:,} tokens; the config states sequences of up to "
            f"{source.seq_length:,}"
        )
    if left_out:
        lines.append(f"vocabulary      {left_out:,} rows without a token were left out")
    if source.sources is None and source.run is not None:
        lines.append(
            "warning: the run's shards were not read: neither validation text nor the shards' ids were compared"
        )
    return "\n".join([*lines, *warnings(exported.account)])
