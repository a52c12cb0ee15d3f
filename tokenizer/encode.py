"""Documents -> one shard: BOS + text + EOS each, in the order of the input, with bounded memory."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tokenizer.documents import Document, DocumentReader
from tokenizer.load import Tokenizer, load_tokenizer
from tokenizer.shards import EncodeOptions, ShardManifest, ShardWriter

# Text and ids of one batch are in memory together: about 10 times this, and more only for a document longer than it.
BATCH_BYTES = 8 << 20


class CommonLabel:
    """The one value that a field has in all documents."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.value: str | None = None
        self.place: str | None = None

    def add(self, value: str | None, place: str) -> None:
        """Raises: ValueError naming both places if the value differs from the first one."""
        if self.place is None:
            self.value, self.place = value, place
        elif value != self.value:
            raise ValueError(
                f"{place}: {self.name} is {value!r}, but {self.value!r} at {self.place}; a shard has one {self.name}, "
                f"so that a mixture can name it: split the input by {self.name} and encode each part to its own prefix"
            )


def encode(
    tokenizer_dir: str | Path,
    inputs: Sequence[str | Path],
    output_prefix: str | Path,
    append_bos: bool = True,
    append_eos: bool = True,
    text_field: str = "text",
    source: str | None = None,
    num_threads: int | None = None,
) -> ShardManifest:
    """Encode jsonl documents to the shard output_prefix.{bin,idx,json}; the same bytes for any num_threads.

    Args: source says in words where the documents come from; num_threads defaults to the cores this process may use.
    Raises: ValueError for a bad tokenizer or input (with file and line), an existing shard, or documents that differ in
    domain or licence. Nothing is left under the shard's names then.
    """
    tokenizer = load_tokenizer(tokenizer_dir)
    reader = DocumentReader(inputs, text_field)
    threads = num_threads or len(os.sched_getaffinity(0))
    bos = [tokenizer.bos_id] if append_bos else []
    eos = [tokenizer.eos_id] if append_eos else []
    domain, licence = CommonLabel("domain"), CommonLabel("licence")
    writer = ShardWriter(output_prefix, vocab_size=tokenizer.vocab_size, tokenizer_sha256=tokenizer.model_sha256)
    with writer, _progress() as progress:
        task = progress.add_task(f"encode {Path(output_prefix).name}", total=reader.total_bytes)
        for batch in batches(reader, BATCH_BYTES):
            for document in batch:
                domain.add(document.domain, document.place)
                licence.add(document.licence, document.place)
            for ids in _encode_batch(tokenizer, batch, threads):
                writer.add_document(np.concatenate([np.array(bos, np.int32), ids, np.array(eos, np.int32)]))
            progress.update(task, completed=reader.bytes_read)
        return writer.finish(
            domain=domain.value,
            licence=licence.value,
            source=source,
            input_files=reader.input_files,
            options=EncodeOptions(append_bos=append_bos, append_eos=append_eos, text_field=text_field),
        )


def batches(documents: Iterable[Document], batch_bytes: int) -> Iterator[list[Document]]:
    """Documents in order, in lists of at least batch_bytes of text (the last may have less)."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.num_bytes
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode_batch(tokenizer: Tokenizer, batch: list[Document], num_threads: int) -> list[np.ndarray]:
    encoded = tokenizer.encode_batch([document.text for document in batch], num_threads=num_threads)
    # A "<s>" written in a text is three characters to us. A tokenizer that took it for BOS would cut documents in two.
    assert not np.isin(np.concatenate(encoded), tokenizer.control_ids).any(), "text became a control token"
    return encoded


def _progress() -> Progress:
    """A bar on a terminal; nothing in a log file."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)
