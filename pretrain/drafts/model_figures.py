"""The model, as drafts print it: size, architecture, how it was trained, what it began with, the hashes that tell it apart."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.convert.exporting.markdown import as_text
from pretrain.drafts.facts import Facts
from pretrain.drafts.figures import Figure, in_range, rows, scientific

MODEL_SIZES = (
    (500e6, "Up to 500 million parameters"), (5e9, "500 million to 5 billion parameters"), (15e9, "5 to 15 billion parameters"),
    (50e9, "15 to 50 billion parameters"), (100e9, "50 to 100 billion parameters"), (500e9, "100 to 500 billion parameters"),
    (1e12, "500 billion to 1 trillion parameters"),
)  # fmt: skip
LARGEST_MODEL = "More than 1 trillion parameters"


def parameters(facts: Facts) -> Figure:
    """Trainable parameters."""
    where = f"{facts.last_run}.model.parameters"
    count = facts.at(where)
    return Figure(
        text=f"{count:,} ({scientific(count)}): {in_range(count, MODEL_SIZES, LARGEST_MODEL)}", where=(where,)
    )


def architecture(facts: Facts) -> Figure:
    """What kind of model it is."""
    where = f"{facts.last_run}.model"
    name, model = facts.at(f"{where}.architecture"), facts.at(f"{where}.configuration.model")
    of_class = "" if name is None else f", the class {as_text(name)} of Hugging Face's transformers"
    keys = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "vocab_size")
    return Figure(
        text=f"An autoregressive decoder-only transformer{of_class}: {model['num_layers']:,} layers of width "
        f"{model['hidden_size']:,}, feed-forward of width {model['ffn_hidden_size']:,} ({as_text(model['activation'])}), "
        f"{model['num_attention_heads']:,} query heads and {model['num_query_groups']:,} key and value heads, "
        f"{model['vocab_size']:,} rows of vocabulary",
        where=(
            *((f"{where}.architecture",) if name is not None else ()),
            *(f"{where}.configuration.model.{key}" for key in (*keys, "activation")),
        ),
    )


def context_length(facts: Facts) -> Figure:
    """Tokens of a sample at the end of training."""
    where = f"{facts.last_run}.seq_length"
    return Figure(text=f"Text, up to {facts.at(where):,} tokens, as it was trained on", where=(where,))


def training(facts: Facts) -> Figure:
    """How each run of the chain trained."""
    cells = [
        (
            as_text(Path(run["run_dir"]).name),
            f"{run['trained_to']:,}",
            f"{run['tokens']:,}",
            f"{run['seq_length']:,}",
            as_text(_optimizer(run["model"]["configuration"])),
            as_text(_batch(run["model"]["configuration"])),
            as_text(_objective(run["model"]["configuration"])),
        )
        for run in facts.at("ledger runs")
    ]
    head = ("run", "steps", "tokens", "tokens a sample", "optimizer", "batch and precision", "objective")
    keys = ("trained_to", "tokens", "seq_length", "model.configuration.optim", "model.configuration.train")
    return Figure(
        text=rows(head, cells),
        where=(*(f"ledger runs[].{key}" for key in keys), "ledger runs[].model.configuration.objective"),
        how="as configured for the last steps of each run",
    )


def began_with(facts: Facts) -> Figure:
    """What the first run of the chain, or the chain that was counted, started from."""
    where = "ledger runs[0].started_from"
    start = facts.at(where)
    if start is None:
        return Figure(text="N/A: training began from initial weights", where=("ledger runs[].started_from",))
    return Figure(
        text=f"The run started from {as_text(start['name'])}, step {start['step']:,}, with manifest "
        f"{as_text(start['manifest_sha256'])}",
        where=tuple(f"{where}.{key}" for key in ("name", "step", "manifest_sha256")),
    )


def began_lacks(facts: Facts) -> str:
    """What the provider has to add to it; empty for a model that began from initial weights."""
    if facts.at("ledger runs[0].started_from") is None:
        return ""
    return "the name and version of that model, and of its provider, if it was placed on the Union market"


def hashes(facts: Facts) -> Figure | None:
    """Hashes of the export, or where none is named of the last checkpoint; None where there is neither."""
    if facts.certificate is not None:
        cells = [
            (as_text(entry["path"]), f"{entry['bytes']:,}", as_text(entry["sha256"]))
            for entry in facts.certificate["files"]
        ]
        of_itself = facts.certificate.get("certificate_sha256")
        own = f"\n\nThe certificate's own SHA-256: {as_text(of_itself)}." if of_itself else ""
        return Figure(
            text=rows(("file of the export", "bytes", "SHA-256"), cells, most=len(cells)) + own,
            where=("certificate files", *(("certificate certificate_sha256",) if of_itself else ())),
        )
    where = f"{facts.last_run}.checkpoint"
    if (found := facts.at(where)) is None:
        return None
    return Figure(
        text=f"SHA-256 of the manifest of {as_text(found['name'])}, which names every byte of that checkpoint: "
        f"{as_text(found['manifest_sha256'])}",
        where=tuple(f"{where}.{key}" for key in ("name", "manifest_sha256")),
    )


def hashes_lack(facts: Facts) -> str:
    """What is to be compared or added before the hashes are published; empty if they are those of the last step."""
    run = facts.at(facts.last_run)
    found = run["checkpoint"] if facts.certificate is None else facts.certificate["checkpoint"]
    if found is None or found["step"] == run["trained_to"]:
        return "" if facts.certificate is not None else "the hashes of the files that are published (`--export`)"
    return (
        f"whether the model of step {found['step']:,} is the one that is published: the hash is its, and all figures here count to "
        f"step {run['trained_to']:,}"
    )


def _optimizer(configuration: Mapping[str, Any]) -> str:
    optim = configuration["optim"]
    return f"{optim['name']}, peak rate {optim['lr']:g} to {optim['min_lr']:g}, {optim['lr_decay_style']}"


def _batch(configuration: Mapping[str, Any]) -> str:
    train = configuration["train"]
    stages = train["batch_stages"]
    later = f", later {', '.join(str(stage['global_batch_size']) for stage in stages)}" if stages else ""
    ramp = " after a ramp" if train["batch_ramp"] is not None else ""
    return f"{train['global_batch_size']} samples{ramp}{later}, {train['precision']}"


def _objective(configuration: Mapping[str, Any]) -> str:
    stated = configuration["objective"]
    named = {
        "goldfish": "goldfish loss",
        "fill_in_the_middle": "fill-in-the-middle",
        "span_corruption": "span corruption",
    }
    others = [words for key, words in named.items() if stated[key] is not None]
    others += ["spans left out"] * bool(stated["mask_between"]) + ["ends left out"] * bool(stated["eod_mask_loss"])
    return ", ".join(["next token", *others])
