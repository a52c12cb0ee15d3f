"""The validation samples of a run, by number, over all of its validation sources: a batch holds samples of several.

They are chunks of concatenated documents whatever data.packing says, so that runs that pack otherwise can be compared.
"""

from collections.abc import Sequence

import numpy as np

from pretrain.config.schema import DataConfig
from pretrain.data.objectives.samples import Objectives, Samples, new_counts
from pretrain.data.order import ChunkOrders
from pretrain.data.rows import RowReader
from pretrain.data.sources import Source


class ValidationSamples:
    """The first chunks of every validation source, one source after the other. The same on every rank."""

    def __init__(
        self,
        sources: Sequence[Source],
        config: DataConfig,
        *,
        samples_per_source: int,
        objectives: Objectives | None = None,
    ) -> None:
        """Args: sources, at least one, all of one tokenizer; samples_per_source, at most: a small source has fewer; objectives: of
        the run, None for no objective.
        """
        self._sources, self._config = list(sources), config
        self._objectives = objectives or Objectives()
        counts = [min(samples_per_source, source.order.chunks_per_epoch) for source in sources]
        self._ends = np.cumsum(counts)
        self._firsts = np.array([source.first_token for source in sources], np.int64)
        self._orders = ChunkOrders([source.order for source in sources])
        vocab_size = sources[0].shard.manifest.vocab_size
        self._reader = RowReader(sources, seq_length=config.seq_length, vocab_size=vocab_size)
        self.pad_id = sources[0].pad_id
        self.domains = tuple(dict.fromkeys(source.label for source in sources))
        """Names that the losses are recorded by."""
        number_of = {domain: number for number, domain in enumerate(self.domains)}
        self._domain_of_source = np.array([number_of[source.label] for source in sources], np.int64)

    @property
    def num_samples(self) -> int:
        """Samples of all sources together."""
        return int(self._ends[-1])

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, first token in its shard) of each sample. Args: int64 [n], below num_samples. Returns: two int64 [n]."""
        sources = np.searchsorted(self._ends, numbers, side="right")
        before = np.concatenate([[0], self._ends])[sources]
        return sources, self._firsts[sources] + self._orders.start_tokens(sources, numbers - before)

    def read_places(self, sources: np.ndarray, start_tokens: np.ndarray, out: np.ndarray) -> np.ndarray:
        """The tokens at these places, in ``out``: int64 [n, s + 1]. Raises: DamagedTokenError."""
        return self._reader.read(sources, start_tokens, out)

    @property
    def reads_index(self) -> bool:
        """Whether what is predicted depends on where documents begin."""
        return self._config.document_mask or self._objectives.reads_index

    def counted(
        self,
        sources: np.ndarray,
        start_tokens: np.ndarray,
        tokens: np.ndarray,
        document_starts: Sequence[np.ndarray] | None,
    ) -> np.ndarray | None:
        """Return which predictions count, bool [n, s]; None if no objective is on. The tokens are as they were read.

        Args: tokens: int64 [n, s + 1]; document_starts: where ``reads_index``.
        """
        if not self._objectives.validation:
            return None
        samples = Samples(
            numbers=np.zeros(len(tokens), np.int64),  # nothing in validation is drawn
            tokens=tokens,
            counted=new_counts(tokens),
            document_starts=document_starts,
            shards=[self._sources[source].shard for source in sources.tolist()],
            pieces=[[(0, start)] for start in start_tokens.tolist()],
        )
        for objective in self._objectives.validation:
            objective.apply(samples)
        return samples.counted

    def domain_ids(self, sources: np.ndarray) -> np.ndarray:
        """Number of each source's name, in ``domains``: int64 [n] -> int64 [n]."""
        return self._domain_of_source[sources]

    def document_starts(self, sources: np.ndarray, start_tokens: np.ndarray) -> list[np.ndarray]:
        """Return the positions 1 to s where a document starts, for each place: int64 [documents] each."""
        return self._reader.document_starts(sources, start_tokens)
