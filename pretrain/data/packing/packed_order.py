"""The order of a source's packed rows: a seeded bijection, new in each epoch; the rows are the same in all of them."""

from dataclasses import dataclass
from functools import cached_property

from pretrain.data.order import check_long_enough
from pretrain.data.packing.kept_plans import PlanFolder
from pretrain.data.packing.plan import Plan, plan_key
from tokenizer.shards.shard import Shard


@dataclass(frozen=True, kw_only=True)
class PackedOrder:
    """The rows of one source, epoch after epoch. Its plan is opened when the number of its rows is first asked for."""

    shard: Shard
    num_tokens: int
    """Tokens in the source that may be read: from the shard's first to the end of a document."""
    seq_length: int
    """Predicted tokens per row."""
    key: str
    """Seed and source, which make this order different from another."""
    name: str
    """Name of the source in errors."""
    folder: PlanFolder
    """Place of its plan."""
    shuffle: bool = True
    stride: int = 1
    """Steps from one place to the next: places are numbers of rows."""
    slack: int = 0

    def __post_init__(self) -> None:
        check_long_enough(self.num_tokens, self.seq_length, self.name)

    @cached_property
    def plan(self) -> Plan:
        """What each row holds."""
        return self.folder.plan(
            self.shard, plan_key(self.shard, train_tokens=self.num_tokens, seq_length=self.seq_length)
        )

    @property
    def chunks_per_epoch(self) -> int:
        """Rows each epoch visits, each once."""
        return self.plan.num_rows

    @property
    def tokens_per_pass(self) -> int:
        """Tokens that count as one pass where a mixture is stated by epochs: padding too, since a sample of it is a row."""
        return self.plan.num_rows * self.seq_length
