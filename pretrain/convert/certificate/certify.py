"""The certificate compares the exported folder, loaded as a user does, with the trainer's own model (a test of parity).

Both run in fp32 on this machine's CPU over validation text of the run and over edge cases. Compared are the state after each
part of the model, so that a difference has a place; the logits, which decide; the loss; the tokenizer's ids.
"""

import dataclasses
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from fanal.errors import DamageError, PassingError, UserError
from fanal.host_memory import host_memory
from pretrain.checkpoint.disk.average_file import Average
from pretrain.checkpoint.disk.tensors import open_tensors
from pretrain.config.schema import ModelConfig
from pretrain.convert.certificate.compare import BOUND, ModelComparison, compare, max_or_nan, mean_loss, our_losses
from pretrain.convert.certificate.logged import LoggedLoss, compare_with_log
from pretrain.convert.certificate.texts import Text, certificate_texts
from pretrain.convert.certificate.tokenizer_proof import TokenizerFigures, prove_tokenizer
from pretrain.convert.ours.model import OurModel
from pretrain.convert.ours.published import PublishedFile
from pretrain.convert.ours.source import ExportSource, what_the_weights_are
from pretrain.convert.ours.trained_on import trained_on
from pretrain.convert.theirs.certified import FORMAT_VERSION
from pretrain.convert.theirs.model import CannotLoadError, LayerByLayer, WholeModel
from pretrain.convert.theirs.write_config import exported_vocab_size
from pretrain.model.families import family_of
from pretrain.model.families.sizes import num_parameters
from pretrain.optim.registry import MASTER
from pretrain.parallel.world import open_lone_world

SHARE_OF_MEMORY = 0.5
"""Share of the available memory that loading the whole model may take; beyond it, the model runs layer by layer."""
READ_OTHERWISE = (
    ' (transformers may read imported files by a class of its own; "tokenizer_class": "PreTrainedTokenizerFast" in '
    "tokenizer_config.json has it read tokenizer.json as it is: write that into a copy of the Hugging Face folder, import its "
    "tokenizer, and export with data.tokenizer=DIR, which keeps the hash that the shards name)"
)
"""What to do where an imported tokenizer is read otherwise."""
Memory = Literal["auto", "whole", "layers"]


class CertificateError(DamageError):
    """Error: the export is not the model that was trained; the message names where the two differ first. Exit code 76."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Results of the comparisons that passed."""

    comparison: ModelComparison
    tokenizer: TokenizerFigures
    mode: str
    """How transformers ran: ``whole`` or ``layers``."""
    warnings: tuple[str, ...]
    """Warnings of transformers while it loaded the model."""
    logged: LoggedLoss
    """The validation loss of the step, in the export and in the run's log."""
    losses_before_rounding: dict[str, float] | None
    """Losses of our model with the weights that were trained, where the export rounds them; else None."""

    def loss_before_rounding(self) -> float | None:
        """Return the mean loss of the samples, like ``mean_loss``; None where nothing was rounded."""
        if self.losses_before_rounding is None:
            return None
        counted = [t for t in self.comparison.texts if t.kind != "edge" and t.name in self.losses_before_rounding]
        tokens = sum(text.num_tokens - 1 for text in counted)
        total = sum(self.losses_before_rounding[text.name] * (text.num_tokens - 1) for text in counted)
        return total / tokens if tokens else None


def certify(
    folder: Path, source: ExportSource, *, dtype: str, num_samples: int, memory: Memory = "auto"
) -> Certificate:
    """Compare the folder with the checkpoint.

    Raises: CertificateError naming the first point where the two differ, or why transformers does not load the folder.
    """
    try:
        tokenizer = prove_tokenizer(folder, source)
        texts = certificate_texts(source, num_samples=num_samples)
        mode = _mode(source, texts, memory)
        theirs = (WholeModel if mode == "whole" else LayerByLayer)(folder, family_of(source.model))
        vocab_size = exported_vocab_size(source)
        with open_lone_world(), open_tensors(source.folder) as reader:
            state = source.weights_state
            ours = OurModel(reader, source.model, vocab_size=vocab_size, dtype=dtype, state=state)
            comparison = compare(ours, theirs, texts)
            before, as_trained = None, theirs
            if dtype == "bfloat16" and source.weights_dtype == "float32":
                exact = OurModel(reader, source.model, vocab_size=vocab_size, dtype="float32", state=state)
                before, as_trained = our_losses(exact, texts), exact  # the log is of weights that were not rounded
            logged = compare_with_log(source, as_trained, num_samples=num_samples, weights_dtype=source.weights_dtype)
    except CannotLoadError as error:
        raise CertificateError(f"the export is not the model in {source.folder}: {error}") from None
    certificate = Certificate(
        comparison=comparison,
        tokenizer=tokenizer,
        mode=mode,
        warnings=tuple(theirs.warnings),
        logged=logged,
        losses_before_rounding=before,
    )
    problems = list(
        _problems(
            certificate,
            has_rows_left_out=vocab_size < source.model.vocab_size,
            remedy=READ_OTHERWISE if source.tokenizer.has_original_files else "",
        )
    )
    if problems:
        raise CertificateError(f"the export is not the model in {source.folder}: {'; '.join(problems)}")
    return certificate


def _problems(certificate: Certificate, *, has_rows_left_out: bool, remedy: str) -> Sequence[str]:
    problems = []
    apart, logged = certificate.logged.apart, certificate.logged
    if apart is not None and not (has_rows_left_out and logged.rows_took_part):
        problems.append(
            f"its validation loss of {apart.domain} is {apart.exported:.6f} and the run logged {apart.logged:.6f} at this step, "
            f"allowed is a difference of {logged.bound:g}: the log is another model's, or data.validation names other shards than "
            "the run read; data.validation=[] leaves this comparison out"
        )
    if not certificate.tokenizer.is_same:
        problems.append(
            f"the exported tokenizer's ids differ from those of {certificate.tokenizer.oracle} or the shards: "
            f"{certificate.tokenizer.first_difference}{remedy}"
        )
    found = certificate.comparison
    if not found.is_within:
        point = found.first_point_apart
        if point is not None:
            where = (
                f"the two models differ first at {point.name} (difference {point.largest_difference:.3g}, bound {point.bound:.3g} "
                f"for values up to {point.largest_value:.3g})"
            )
        else:
            where = "every state up to the final norm agrees, so the two models differ first at the output layer"
        worst = max(
            found.texts,
            key=lambda text: math.inf if math.isnan(text.largest_logit_difference) else text.largest_logit_difference,
        )
        problems.append(
            f"{where}; logits differ by up to {found.largest_logit_difference:.3g} in {worst.name}, allowed is {BOUND:g} in fp32"
        )
    return problems


def _mode(source: ExportSource, texts: Sequence[Text], memory: Memory) -> str:
    there = host_memory()
    if memory != "layers" and (
        memory == "whole" or whole_bytes(source, texts) < SHARE_OF_MEMORY * there.available_bytes
    ):
        return "whole"
    needed = layer_bytes(source.model)
    if needed > there.available_bytes:
        raise (UserError if needed > there.total_bytes else PassingError)(
            f"a layer of {source.folder} and its embedding take {needed:,} bytes in float32, and of {there.total_bytes:,} bytes of "
            f"memory {there.available_bytes:,} are free; a machine with more memory works"
        )
    return "layers"


def layer_bytes(model: ModelConfig) -> int:
    """Return the bytes of a layer and of the embedding of our model, which the certificate holds at least."""
    return (num_parameters(model) // model.num_layers + model.vocab_size * model.hidden_size) * 4


def whole_bytes(source: ExportSource, texts: Sequence[Text]) -> int:
    """Return the bytes that the certificate takes with transformers' whole model in memory: its weights in fp32 and as read,
    the states of all texts at two points per layer, their logits; and a layer and the embedding of our model."""
    model = source.model
    tokens = sum(len(text.ids) for text in texts)
    weights = num_parameters(model) * 8
    states = tokens * model.hidden_size * 4 * (2 * model.num_layers + 4)
    logits = tokens * model.vocab_size * 4
    ours = (num_parameters(model) // model.num_layers + 2 * model.vocab_size * model.hidden_size) * 4
    return weights + states + logits + ours


def certificate_json(
    certificate: Certificate, source: ExportSource, *, files: Sequence[PublishedFile], dtype: str, date: str
) -> dict[str, Any]:
    """Return the content of ``certificate.json``."""
    found = certificate.comparison
    left_out = source.model.vocab_size - exported_vocab_size(source)
    kind = "masters" if source.weights_state == MASTER else "moving averages of the masters"
    return {
        "format_version": FORMAT_VERSION,
        "verdict": "same model",
        "date": date,
        "bound": BOUND,
        "figures": {
            "largest_logit_difference": found.largest_logit_difference,
            "largest_state_difference": max_or_nan([point.largest_difference for point in found.points]),
            "first_point_apart": found.first_point_apart.name if found.first_point_apart is not None else None,
            "top1_agreement": _mean_top1(found),
            "our_loss": mean_loss(found.texts, "our_loss"),
            "their_loss": mean_loss(found.texts, "their_loss"),
            "loss_before_rounding": certificate.loss_before_rounding(),
            "validation_loss": _validation_loss(certificate.logged),
            "points": [dataclasses.asdict(point) | {"bound": point.bound} for point in found.points],
            "texts": [dataclasses.asdict(text) for text in found.texts],
            "tokenizer": dataclasses.asdict(certificate.tokenizer),
        },
        "compared": {
            "arithmetic": "float32 on a CPU",
            "weights": f"{kind} rounded to {dtype}" if dtype == "bfloat16" else kind,
            "trained_weights": source.weights_dtype,
            "what_the_weights_are": what_the_weights_are(source),
            "transformers_ran": certificate.mode,
            "warnings_of_transformers": list(certificate.warnings),
            "vocabulary_rows": exported_vocab_size(source),
            "vocabulary_rows_left_out": left_out,
            "documents_kept_apart": False,
            "longest_text": found.longest_text,
            "seq_length": source.seq_length,
        },
        "checkpoint": {
            "name": source.folder.name,
            "step": source.state.step,
            "manifest_sha256": source.manifest_sha256,
            "tokenizer_sha256": source.tokenizer.sha256,
            "state": source.weights_state,
            "average_of": None if source.average is None else _sources_of(source.average),
        },
        "data": [
            dataclasses.asdict(part) for part in trained_on(source.manifest_sha256, source.position, source.origin)
        ],
        "files": [dataclasses.asdict(entry) for entry in files],
        "versions": versions(),
    }


def _sources_of(average: Average) -> list[dict[str, Any]]:
    """Return the checkpoints that were averaged, without their paths, which are nobody else's business."""
    return [{"step": part.step, "manifest_sha256": part.manifest_sha256} for part in average.sources]


def _validation_loss(logged: LoggedLoss) -> dict[str, Any]:
    if logged.why_not is not None:
        return {"not_compared": logged.why_not}
    return {
        "bound": logged.bound,
        "rows_without_a_token_took_part_in_training": logged.rows_took_part,
        "domains": [dataclasses.asdict(domain) for domain in logged.domains],
    }


def _mean_top1(found: ModelComparison) -> float:
    tokens = sum(text.num_tokens for text in found.texts)
    return sum(text.top1_agreement * text.num_tokens for text in found.texts) / tokens


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that an export depends on."""
    names = ("fanal", "torch", "megatron-core", "transformers", "tokenizers", "safetensors", "sentencepiece")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "0+unknown"
    return found
