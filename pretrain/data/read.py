"""Sample numbers -> tokens in host memory. Letters: n samples, s sequence."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from pretrain.config.schema import DataConfig
from pretrain.data.mixture import Mixture
from pretrain.data.objectives.samples import Samples, new_counts
from pretrain.data.order import ChunkOrders
from pretrain.data.packing.packed_rows import PackedRowReader
from pretrain.data.rows import RowReader
from pretrain.data.sources import Sources


class TrainData:
    """The training samples of a run, by number. Holds no position: the same for every rank, layout and restart."""

    def __init__(self, sources: Sources, config: DataConfig) -> None:
        self.sources = sources
        self.config = config
        self.mixture = Mixture(sources.phases, num_sources=len(sources.train), seed=config.seed)
        number_of = {domain: number for number, domain in enumerate(self.domains)}
        self._domain_of_source = np.array([number_of[source.label] for source in sources.train], np.int64)
        self.orders = ChunkOrders([source.order for source in sources.train])
        size = {"seq_length": config.seq_length, "vocab_size": sources.vocab_size}
        self.rows = (
            PackedRowReader(sources.train, **size, fill_id=sources.fill_id)
            if config.packing == "best_fit"
            else RowReader(sources.train, **size)
        )

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, place in it) of each sample: the first token in its shard, or with data.packing the number of a row in its plan.

        Args: int64 [n]. Returns: two int64 [n].
        """
        sources, draws = self.mixture.locate(numbers)
        return sources, self.orders.start_tokens(sources, draws)  # training reads a shard from its first token

    def read_places(self, sources: np.ndarray, places: np.ndarray, out: np.ndarray) -> np.ndarray:
        """The tokens at these places, in ``out``: integers [n, s + 1]. Raises: DamagedTokenError."""
        return self.rows.read(sources, places, out)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Tokens of these samples: int64 [n, s + 1]. Raises: DamagedTokenError."""
        return self.read_places(*self.places(numbers), self.new_rows(len(numbers)))

    @property
    def reads_index(self) -> bool:
        """Whether what is trained on depends on where documents begin."""
        return self.config.document_mask or self.config.packing == "best_fit" or self.sources.objectives.reads_index

    def apply_objectives(
        self,
        numbers: np.ndarray,
        sources: np.ndarray,
        places: np.ndarray,
        tokens: np.ndarray,
        document_starts: Sequence[np.ndarray] | None,
    ) -> np.ndarray | None:
        """Make of tokens that were read what is trained on, in place.

        Args: numbers, sources, places: int64 [n]; tokens: integers [n, s + 1]; document_starts: where ``reads_index``.
        Returns: which predictions count, bool [n, s]; None if all.
        """
        of_rows = self.rows.counted(sources, places)
        if not self.sources.objectives.training:
            return of_rows
        counted = new_counts(tokens)
        pieces = [self.rows.pieces(*place) for place in zip(sources.tolist(), places.tolist(), strict=True)]
        samples = Samples(
            numbers=numbers,
            tokens=tokens,
            counted=counted,
            document_starts=document_starts,
            shards=[self.sources.train[source].shard for source in sources.tolist()],
            pieces=pieces,
        )
        for objective in self.sources.objectives.training:
            objective.apply(samples)
        return counted if of_rows is None else counted & of_rows

    @property
    def counts_apart(self) -> bool:
        """Whether micro batches have a mask of what counts."""
        return self.config.packing == "best_fit" or bool(self.sources.objectives.training)

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Names that the losses are recorded by, in the order of their first sources; sources of one domain share it."""
        return tuple(dict.fromkeys(source.label for source in self.sources.train))

    def domain_ids(self, sources: np.ndarray) -> np.ndarray:
        """Number of each source's domain, in ``domains``: int64 [n] -> int64 [n]."""
        return self._domain_of_source[sources]

    def document_starts(self, sources: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
        """Return the positions 1 to s where a document starts, for each place: int64 [documents] each; in packed rows, where a
        piece of one does, and what fills the row."""
        return self.rows.document_starts(sources, places)

    def sample(self, number: int) -> np.ndarray:
        """Tokens of sample ``number``: int64 [s + 1]."""
        return self.read(np.array([number], np.int64))[0]

    def new_rows(self, count: int) -> np.ndarray:
        """Room for ``count`` samples: int64 [count, s + 1], not filled."""
        return np.empty((count, self.config.seq_length + 1), np.int64)
