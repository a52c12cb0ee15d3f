"""Exporting a large model: peak memory and speed, beside a raw copy of the same bytes.

    python -m bench.export_large --folder DIR [--layers N] [--ranks N] [--dtypes bf16 fp32] [--certificate-tokens N]

Writes a checkpoint of Lucie-7B's shape with random weights (32 layers; fewer make it smaller), cut as the distributed
optimizer of N ranks cuts it, in the checkpoint's own format. It holds weights alone, no moments, as an imported one does: an
export reads no moments, though its verification hashes them. Then, each in a process of its own with the checkpoint out of
the page cache: the copy of the exported files, the write of the export in bf16 and in fp32, and the certificate layer by layer.
Results are added to bench/results/export.md. The folder needs 12 bytes of disk a parameter, 8 for bf16 alone.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from bench.compare import append_result, drop_from_page_cache, table
from fanal.run_folder import COMPLETE, CONFIG, MANIFEST, SHARDS, STATE, TENSORS, shard_path
from pretrain.checkpoint.disk.boxes import Box, boxes_of_range
from pretrain.checkpoint.disk.manifest import Manifest, describe, manifest_bytes, seal_text
from pretrain.checkpoint.disk.shard_file import header_bytes
from pretrain.checkpoint.disk.state_file import state_text
from pretrain.checkpoint.disk.tensor_index import IndexedTensor, StoredBox, TensorIndex, entry_name, index_text
from pretrain.config.schema import ModelConfig
from pretrain.convert.ours.import_record import IMPORT, import_text
from pretrain.convert.ours.names import our_shapes
from pretrain.model.families.sizes import num_parameters
from pretrain.state import TrainState

RESULTS = Path(__file__).parent / "results" / "export.md"
BLOCK_BYTES = 8 << 20


def lucie(num_layers: int) -> ModelConfig:
    """Lucie-7B, with this many of its 32 layers."""
    return ModelConfig(
        num_layers=num_layers, hidden_size=4096, ffn_hidden_size=12288, num_attention_heads=32, num_query_groups=8,
        vocab_size=65024, rotary_base=500_000.0,
    )  # fmt: skip


def write_checkpoint(folder: Path, model: ModelConfig, *, num_ranks: int, seq_length: int) -> None:
    """Write a complete, sealed checkpoint of random weights."""
    (folder / SHARDS).mkdir(parents=True)
    shapes = our_shapes(model)
    stored: dict[str, list[StoredBox]] = {name: [] for name in shapes}
    for rank in range(num_ranks):
        boxes = [(name, box) for name, shape in shapes.items() for box in _part(shape, rank, num_ranks)]
        with (folder / shard_path(rank)).open("wb") as stream:
            stream.write(header_bytes((entry_name(name, "param", box), box.size) for name, box in boxes))
            for name, box in boxes:
                stored[name].append(StoredBox(file=rank, box=box))
                for block in _random(name, box):
                    stream.write(block.data)
    tensors = {
        name: IndexedTensor(name=name, shape=shape, stored=tuple(stored[name]), weights_sum="0" * 16)
        for name, shape in shapes.items()
    }
    index = TensorIndex(states=("param",), num_updates=0, weights_dtype="bfloat16", tensors=tensors)
    config = {"model": asdict(model), "data": {"seq_length": seq_length}, "train": {"precision": "bf16"}}
    texts = {
        STATE: state_text(TrainState()),
        TENSORS: index_text(index),
        CONFIG: OmegaConf.to_yaml(OmegaConf.create(config)),
        IMPORT: import_text(name="random", files=(), config={"vocab_size": model.vocab_size, "eos_token_id": 2}),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    names = [*texts, *(shard_path(rank) for rank in range(num_ranks))]
    manifest = manifest_bytes(Manifest(step=0, files=tuple(describe(folder, name) for name in names)))
    (folder / MANIFEST).write_bytes(manifest)
    (folder / COMPLETE).write_text(seal_text(manifest))


def _part(shape: tuple[int, ...], rank: int, num_ranks: int) -> list[Box]:
    elements = int(np.prod(shape))
    return boxes_of_range(shape, elements * rank // num_ranks, elements * (rank + 1) // num_ranks)


def _random(name: str, box: Box) -> Iterator[np.ndarray]:
    key = hashlib.blake2b(f"{name}/{box.offset}".encode(), digest_size=8).digest()
    generator = np.random.default_rng(int.from_bytes(key, "little"))
    for first in range(0, box.num_elements, BLOCK_BYTES // 4):
        count = min(BLOCK_BYTES // 4, box.num_elements - first)
        values = generator.standard_normal(count, dtype=np.float32)
        yield values * np.float32(0.02) if len(box.size) == 2 else 1 + values * np.float32(0.02)


def child(act: str, checkpoint: Path, target: Path) -> dict[str, float]:
    """One act in this process: seconds, memory before it and at its peak."""
    from pretrain.convert.certificate.certify import certify
    from pretrain.convert.exporting.export import write_export
    from pretrain.convert.exporting.weights import plan_files
    from pretrain.convert.ours.names import hf_tensors
    from pretrain.convert.ours.source import open_source

    source = open_source(checkpoint)
    drop_from_page_cache(checkpoint)
    dtype = "float32" if act == "export in fp32" else "bfloat16"
    tensors = hf_tensors(source.model, vocab_size=source.model.vocab_size)
    before, started = peak_rss_bytes(), time.perf_counter()
    figures: dict[str, float] = {}
    if act == "certificate":
        found = certify(target, source, dtype=dtype, num_samples=1, memory="layers")
        figures["largest_logit_difference"] = found.comparison.largest_logit_difference
        figures["tokens"] = sum(text.num_tokens for text in found.comparison.texts)
        figures["largest_share"] = max(p.largest_difference / p.largest_value for p in found.comparison.points)
    else:
        target.mkdir()
        write_export(target, source, plan_files(tensors, dtype=dtype, max_shard_bytes=5_000_000_000), dtype)
    elapsed_s = time.perf_counter() - started
    return figures | {"elapsed_s": elapsed_s, "before_bytes": before, "peak_bytes": peak_rss_bytes()}


def peak_rss_bytes() -> int:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_child(act: str, checkpoint: Path, target: Path) -> dict[str, float]:
    """``child`` in a process of its own."""
    words = [
        "--act",
        act,
        "--checkpoint",
        str(checkpoint),
        "--target",
        str(target),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench.export_large", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{act} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def copy_synced(source: Path, target: Path) -> float:
    """Seconds to copy a folder's files with the disk told to keep them."""
    drop_from_page_cache(source)
    target.mkdir()
    started = time.perf_counter()
    for path in sorted(source.iterdir()):
        with path.open("rb") as left, (target / path.name).open("wb") as right:
            shutil.copyfileobj(left, right, 16 << 20)
            right.flush()
            os.fsync(right.fileno())
    return time.perf_counter() - started


def measure(folder: Path, model: ModelConfig, args: argparse.Namespace) -> None:
    """All contenders, and the table."""
    checkpoint, parameters = folder / "checkpoint", num_parameters(model)
    write_checkpoint(checkpoint, model, num_ranks=args.ranks, seq_length=args.certificate_tokens or 1)
    rows: list[tuple[str, ...]] = []
    for dtype, size in (("fp32", 4), ("bf16", 2)):
        if dtype in args.dtypes:
            rows += compare_export(folder, checkpoint, dtype, parameters * size, args)
    note = ""
    if args.certificate_tokens and "bf16" in args.dtypes:
        found = run_child("certificate", checkpoint, folder / "bf16")
        rows.append(("certificate in bf16, layer by layer", "", f"{found['elapsed_s']:.1f}", "", "", memory(found)))
        note = (
            f" The certificate read {found['tokens']:,.0f} tokens; logits differ by {found['largest_logit_difference']:.1e} at "
            f"most, states by {found['largest_share']:.1e} of the largest value."
        )
    head = ("", "GB written", "s", "MB/s written", "x copy", "peak memory beyond the start, MiB (in all)")
    matrix_bytes = model.vocab_size * model.hidden_size * 4
    text = (
        f"{parameters:,} parameters ({model.num_layers} layers of Lucie-7B's shape), random, cut for {args.ranks} ranks; float32 "
        f"masters of {parameters * 4 / 1e9:.2f} GB are read, from the disk, for either precision. Median of {args.rounds}; every "
        f"file is synced. A layer is {layer_bytes(model) / 2**20:,.0f} MiB in float32, the embedding "
        f"{matrix_bytes / 2**20:,.0f} MiB.{note}\n\n{table(head, rows)}"
    )
    append_result(RESULTS, f"Export of {parameters / 1e9:.2f} B parameters", text)


def compare_export(
    folder: Path, checkpoint: Path, dtype: str, num_bytes: int, args: argparse.Namespace
) -> list[tuple[str, ...]]:
    """Rows of the copy and of the export in one precision, in turn; the bf16 export stays for the certificate."""
    target, copies, exports = folder / dtype, [], []
    for _ in range(args.rounds):
        shutil.rmtree(target, ignore_errors=True)
        exports.append(run_child(f"export in {dtype}", checkpoint, target))
        copies.append(copy_synced(target, folder / "copy"))
        shutil.rmtree(folder / "copy")
    if dtype != "bf16":
        shutil.rmtree(target)
    copy_s, export_s = float(np.median(copies)), float(np.median([one["elapsed_s"] for one in exports]))
    largest = max(exports, key=lambda one: one["peak_bytes"])
    written = f"{num_bytes / 1e9:.2f}"
    speeds = [f"{num_bytes / seconds / 1e6:,.0f}" for seconds in (copy_s, export_s)]
    return [
        (f"copy of the {dtype} export", written, f"{copy_s:.1f}", speeds[0], "1.0", ""),
        (f"export in {dtype}", written, f"{export_s:.1f}", speeds[1], f"{export_s / copy_s:.1f}", memory(largest)),
    ]


def memory(figures: dict[str, float]) -> str:
    """Return the peak memory beyond the imports and the checkpoint's index, and in all."""
    before, peak = figures["before_bytes"], figures["peak_bytes"]
    return f"{(peak - before) / 2**20:,.0f} ({peak / 2**20:,.0f})"


def layer_bytes(model: ModelConfig) -> int:
    """Return the bytes of a layer in float32."""
    vocab = model.vocab_size * model.hidden_size * 2 + model.hidden_size
    return (num_parameters(model) - vocab) // model.num_layers * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".cache/export"))
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"])
    parser.add_argument(
        "--certificate-tokens", type=int, default=256, help="tokens of its longest text; 0 makes no certificate"
    )
    parser.add_argument("--act", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.act:
        print(json.dumps(child(args.act, args.checkpoint, args.target)))
        return
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    try:
        measure(args.folder, lucie(args.layers), args)
    finally:
        shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
