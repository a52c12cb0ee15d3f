"""The model card: ``README.md`` of an export, made from the run and its certificate alone. Unknown facts are left out."""

from collections.abc import Sequence
from pathlib import Path

from pretrain.checkpoint.disk.origin import chain, described
from pretrain.config.schema import DataConfig, OptimConfig, RunConfig
from pretrain.config.stages import unequal_text
from pretrain.config.steps import last_batch_size
from pretrain.convert.certificate.certify import Certificate, versions
from pretrain.convert.certificate.compare import BOUND, mean_loss
from pretrain.convert.exporting.account import Account
from pretrain.convert.exporting.card_account import costs_section, documents_section, emissions, languages_read
from pretrain.convert.exporting.card_architecture import architecture
from pretrain.convert.exporting.card_objective import objective_lines
from pretrain.convert.exporting.markdown import as_text, front_matter, table
from pretrain.convert.exporting.measured import measured_rows
from pretrain.convert.ours.source import ExportSource, what_the_weights_are
from pretrain.convert.theirs.write_config import exported_vocab_size
from pretrain.data.position import SourcePosition
from pretrain.log.summary import figure
from pretrain.optim.registry import decay_described, optimizer_of
from pretrain.state import TrainState
from tokenizer.shards.labels import LANGUAGE_TAG
from tokenizer.shards.shard import ShardManifest

MOST_ROWS = 200
"""Sources with a row of their own; of more, those that gave most samples."""
NO_LANGUAGE = ("mul", "und", "zxx", "mis")
"""Tags that name no language: several, unknown, none, and one without a code."""


def model_card(
    source: ExportSource, certificate: Certificate, account: Account, *, dtype: str, date: str, licence: str | None
) -> str:
    """Return the card's text. Args: licence: identifier of the model's licence on the hub; None leaves it out."""
    sections = [
        _front_matter(source, account, licence),
        _head(source, dtype),
        architecture(source, dtype),
        _training(source),
        _data(source),
        documents_section(account),
        costs_section(account),
        _certificate(source, certificate, date),
        _use(source),
    ]
    return "\n".join(section for section in sections if section)


def _front_matter(source: ExportSource, account: Account, licence: str | None) -> str:
    content: dict[str, str | list[str] | dict[str, str | float]] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
    }
    labels = languages_read(account)
    if labels is None:
        labels = [manifest.language for manifest in _manifests(source).values() if manifest.language]
    if languages := sorted({hub_code(label) for label in labels if is_language(label)}):
        content["language"] = languages
    if licence:
        content["license"] = licence
    if (stated := emissions(account)) is not None:
        content["co2_eq_emissions"] = stated
    return front_matter(content)


def hub_code(label: str) -> str:
    """Return the hub's identifier of a language: its code of ISO 639, without script and region, which the hub does not know."""
    return label.split("-")[0].lower()


def is_language(label: str) -> bool:
    """Whether the label of a shard is that of one language. Labels of earlier versions may be anything; ``code`` is the hub's."""
    first = label.split("-")[0]
    known = 2 <= len(first) <= 3 and first.lower() not in NO_LANGUAGE
    return LANGUAGE_TAG.fullmatch(label) is not None and (known or label == "code")


def _head(source: ExportSource, dtype: str) -> str:
    name = Path(source.run.run_dir).name if source.run is not None else "model"
    if source.imported is not None:
        name = source.imported.name
    what = "A base language model: it continues a text, and was not trained to follow instructions."
    return f"# {as_text(name)}, step {source.state.step:,}\n\n{what} Weights in {dtype}, exported by Fanal.\n"


def _training(source: ExportSource) -> str:
    rows: list[tuple[str, ...]] = [
        ("steps", f"{source.state.step:,}"),
        ("samples", f"{source.state.consumed_samples:,}"),
        ("tokens", f"{source.state.consumed_tokens:,}"),
    ]
    if source.run is not None:
        rows += settings_rows(source.run, source.state)
        rows += _measured(source)
    if (what := what_the_weights_are(source)) is not None:
        rows.append(("weights", as_text(what)))
    rows.append(("checkpoint", f"manifest sha256 `{source.manifest_sha256}`"))
    if source.imported is not None:
        rows.append(("started from", f"weights imported from {as_text(source.imported.name)}"))
    rows += [("started from", as_text(described(origin))) for origin in chain(source.origin)]
    rows.append(("exported with", ", ".join(f"{name} {as_text(number)}" for name, number in versions().items())))
    return "## Training\n\n" + table(("", ""), rows)


def _measured(source: ExportSource) -> list[tuple[str, str]]:
    """Return the rows on what the run logged; nothing if its log is not there, or of an average, which may lie anywhere."""
    if source.average is not None:
        return []
    rows = measured_rows(source.folder.parent.parent, source.state.step)
    of = "" if source.is_in_the_log else " of the weights, not of their average"
    return [(f"{name}{of}" if name.endswith("loss") else name, value) for name, value in rows]


def settings_rows(run: RunConfig, state: TrainState) -> list[tuple[str, str]]:
    """Return the rows on how the run trained: its config is that of its last session."""
    train, optim, parallel = run.train, run.optim, run.parallel
    virtual = parallel.virtual_pipeline_model_parallel_size
    stages = f" with {virtual} virtual stages per rank" if virtual > 1 else ""
    context = f"context {parallel.context_parallel_size}, " if parallel.context_parallel_size > 1 else ""
    if unequal := unequal_text(run.model, parallel):
        stages += f" (stages of {unequal} layers)"
    replicas = parallel.data_parallel_size or "as many as the ranks allowed"
    rate = f"learning rate {optim.lr:g} to {optim.min_lr:g} ({_shape_of(optim, state)})"
    stated = optimizer_of(optim)
    settings = f"{rate}, {decay_described(optim)}, {stated.described(optim)}, clipped at {optim.clip_grad:g}"
    # Neither a ramp, nor a later stage, nor a resume with another one.
    always = state.consumed_samples == state.step * train.global_batch_size
    full = train.global_batch_size if always else last_batch_size(train)
    return [
        (
            "batch" if always else "full batch of the last session",
            f"{full:,} samples, {full * run.data.seq_length:,} tokens",
        ),
        ("optimizer", f"{stated.title}, {settings}"),
        ("precision", train.precision),
        (
            "layout of the last session",
            f"tensor {parallel.tensor_model_parallel_size}, pipeline {parallel.pipeline_model_parallel_size}{stages}, "
            f"{context}data {replicas}",
        ),
    ]


def _shape_of(optim: OptimConfig, state: TrainState) -> str:
    """Return the shape of the learning rate, with that of a final decay where there is one."""
    if optim.lr_wsd_decay_samples is None:
        return optim.lr_decay_style
    began = "" if state.decay_start_sample is None else f" from sample {state.decay_start_sample:,} on"
    return f"{optim.lr_decay_style}, {optim.lr_wsd_decay_style} over {optim.lr_wsd_decay_samples:,} samples{began}"


def how_samples_were_made(data: DataConfig) -> str:
    """Return a line on the documents in the samples of training."""
    if data.document_mask:
        made = "Attention was masked at document boundaries in training: put only one document into a sequence."
    elif data.packing == "best_fit":
        made = "Samples were packed of several documents, and attention crossed document boundaries."
    else:
        made = "Samples were cut from concatenated documents, and attention crossed document boundaries."
    if data.packing == "best_fit":
        made += " Documents that fit a sample were whole in it (best-fit packing); tokens and passes below count padding too."
    return f"{made}\n"


def _data(source: ExportSource) -> str:
    if source.position is None:
        return ""
    manifests = _manifests(source)
    read = [part for part in source.position.sources if part.cursor]
    total = sum(part.cursor for part in read)
    listed = sorted(read, key=lambda part: -part.cursor)[:MOST_ROWS] if len(read) > MOST_ROWS else read
    rows = [_source_row(part, total, source, manifests.get(part.identity)) for part in listed]
    shown = {part.identity for part in listed}
    rows += _rest_rows([part for part in read if part.identity not in shown], total, source, manifests)
    head = ("source", "domain", "language", "licence", "tokens", "share", "passes")
    mask = how_samples_were_made(source.run.data) if source.run is not None else ""
    objectives = objective_lines(source.run.objective) if source.run is not None else []
    return f"## Data\n\n{mask}" + "".join(f"{line}\n" for line in objectives) + "\n" + table(head, rows)


def _rest_rows(
    rest: Sequence[SourcePosition], total: int, source: ExportSource, manifests: dict[str, ShardManifest]
) -> list[tuple[str, ...]]:
    """The rows of the sources that have none of their own: one for each language and licence, so that none is left out."""
    groups: dict[tuple[str, str], list[SourcePosition]] = {}
    for part in rest:
        known = manifests.get(part.identity)
        stated = (known.language, known.licence) if known is not None else (None, None)
        language, licence = (as_text(value) if value else "not stated" for value in stated)
        groups.setdefault((language, licence), []).append(part)
    rows = []
    for (language, licence), parts in groups.items():
        drawn, what = sum(part.cursor for part in parts), "source" if len(parts) == 1 else "sources"
        tokens = drawn * source.seq_length
        passes = tokens / sum(part.train_tokens for part in parts)
        name = f"{len(parts):,} more {what}"
        rows.append((name, "various", language, licence, f"{tokens:,}", f"{drawn / total:.2%}", f"{passes:.2f}"))
    return rows


def _source_row(
    part: SourcePosition, total: int, source: ExportSource, manifest: ShardManifest | None
) -> tuple[str, ...]:
    tokens = part.cursor * source.seq_length
    known = (manifest.domain, manifest.language, manifest.licence) if manifest is not None else (None, None, None)
    return (
        as_text(Path(part.prefix).name),
        *(as_text(value) if value else "not stated" for value in known),
        f"{tokens:,}",
        f"{part.cursor / total:.2%}",
        f"{tokens / part.train_tokens:.2f}",
    )


def _certificate(source: ExportSource, certificate: Certificate, date: str) -> str:
    found, ids = certificate.comparison, certificate.tokenizer
    samples = [text for text in found.texts if text.kind != "edge"]
    kinds = sorted({text.kind for text in samples})
    ours, theirs = (mean_loss(found.texts, side) for side in ("our_loss", "their_loss"))
    left_out = source.model.vocab_size - exported_vocab_size(source)
    edges = len(found.texts) - len(samples)
    longest = max(text.num_tokens for text in samples)
    agreement = min(text.top1_agreement for text in found.texts)
    rows = [
        (
            "read by both",
            f"{len(samples)} {' and '.join(kinds)} texts of up to {longest:,} tokens, and {edges} edge cases",
        ),
        ("largest difference of a logit", f"{found.largest_logit_difference:.2e} (allowed: {BOUND:g})"),
        ("same most likely token", f"{agreement:.2%} of positions, in the worst text"),
        ("loss, the trainer's model", f"{figure(ours)}"),
        ("loss, transformers", f"{figure(theirs)}"),
    ]
    if certificate.losses_before_rounding is not None:
        rows.append(("loss before rounding to bfloat16", figure(certificate.loss_before_rounding())))
    rows += [
        (
            f"validation loss, {as_text(domain.domain)}",
            f"{figure(domain.exported)} (logged in training: {figure(domain.logged)})",
        )
        for domain in certificate.logged.domains
    ]
    if ids.oracle != "none":
        texts = f"{ids.num_documents:,} documents of the training shards and {ids.num_texts} adversarial texts"
        rows.append(("tokenizer", f"the ids of {ids.oracle} in {texts}"))
    if found.longest_text < source.seq_length:
        rows.append(("not compared", f"positions from {found.longest_text:,} to {source.seq_length - 1:,}"))
    if left_out:
        rows.append(("vocabulary", f"{left_out:,} rows without a token were left out"))
    text = (
        "This folder was loaded with `transformers` and compared with the trainer's own model, both in fp32 with the weights "
        f"of this export, on {date}. Every figure, and the sha256 of every file: `certificate.json`.\n"
    )
    return f"## Certificate\n\n{text}\n" + table(("", ""), rows)


def _use(source: ExportSource) -> str:
    has_tokenizer = source.tokenizer.is_there
    where = "this/folder" if has_tokenizer else "the/folder/of/its/tokenizer"
    lines = [
        "## Use",
        "",
        *(() if has_tokenizer else ("This folder has no tokenizer.", "")),
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{where}")',
        'model = AutoModelForCausalLM.from_pretrained("this/folder")',
        'inputs = tokenizer("The", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))",
        "```",
        "",
    ]
    if source.model.attention_logit_softcap is not None:
        lines += [
            "`transformers` 4 leaves the soft cap of the scores out, without a word, unless the model is loaded with "
            '`attn_implementation="eager"`; 5 does so by itself.',
            "",
        ]
    if source.tokenizer.oracle is not None:
        has_original = source.tokenizer.has_original_files
        as_then = "" if has_original else ", as in training"
        bos = f"A BOS is put in front of each text{as_then}." if source.tokenizer.adds_bos else "No BOS is added."
        name = as_text(source.tokenizer.oracle.piece(source.tokenizer.oracle.eos_id if has_original else 0))
        lines += [
            f"{bos} A name of a special token in a text, such as {name}, is read as that token, since chat templates need it; "
            "`tokenizer(text, split_special_tokens=True)` reads it as text, as training did.",
            "",
        ]
    return "\n".join(lines)


def _manifests(source: ExportSource) -> dict[str, ShardManifest]:
    return {part.identity: part.shard.manifest for part in source.sources.train} if source.sources is not None else {}
