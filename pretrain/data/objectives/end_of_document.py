"""The token behind the end of a document is not predicted: it begins another text."""

from dataclasses import dataclass

from pretrain.data.objectives.samples import Samples


@dataclass(frozen=True)
class EndOfDocument:
    """Leave out what is predicted from an end-of-document token, as Megatron's --eod-mask-loss. The end itself is predicted."""

    eos_id: int

    def apply(self, samples: Samples) -> None:
        """See the class."""
        samples.counted[samples.tokens[:, :-1] == self.eos_id] = False
