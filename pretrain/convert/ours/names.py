"""Which part of which of our tensors is which tensor of a Hugging Face Llama, in both directions.

Ours are Megatron's: linear_qkv holds, query group by query group, the group's query heads, its key head and its value head;
linear_fc1 holds the gate and then the up projection. Both sides rotate the two halves of a head, so no row changes its place
within a head. Pure arithmetic; no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pretrain.checkpoint.disk.boxes import Box
from pretrain.config.derive import kv_channels, padded_vocab_size
from pretrain.config.schema import ModelConfig
from pretrain.model.tensor_names import EMBEDDING, FINAL_NORM, OUTPUT


@dataclass(frozen=True, kw_only=True)
class HfTensor:
    """A tensor of the Hugging Face model: rows of ours, one block after the other."""

    name: str
    shape: tuple[int, ...]
    tensor: str
    """Ours."""
    boxes: tuple[Box, ...]
    """Of it, in the order of the rows."""


def our_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model under the name it has in a checkpoint, with its whole shape, in the model's order."""
    hidden, head, ffn = model.hidden_size, kv_channels(model), model.ffn_hidden_size
    vocab = padded_vocab_size(model)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (vocab, hidden)}
    for layer in range(model.num_layers):
        prefix = f"decoder.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}self_attention.linear_proj.weight": (hidden, model.num_attention_heads * head),
            f"{prefix}self_attention.linear_qkv.weight": (
                (model.num_attention_heads + 2 * model.num_query_groups) * head,
                hidden,
            ),
            f"{prefix}pre_mlp_layernorm.weight": (hidden,),
            f"{prefix}mlp.linear_fc1.weight": (2 * ffn, hidden),
            f"{prefix}mlp.linear_fc2.weight": (hidden, ffn),
        }
    shapes[FINAL_NORM] = (hidden,)
    if not model.share_embeddings_and_output_weights:
        shapes[OUTPUT] = (vocab, hidden)
    return shapes


def hf_tensors(model: ModelConfig, *, vocab_size: int) -> list[HfTensor]:
    """Every tensor of the Hugging Face model, in its order, with ``vocab_size`` tokens: layer by layer, so that a reader that
    goes through it needs one layer's memory."""
    found = [_rows("model.embed_tokens.weight", EMBEDDING, [range(vocab_size)], model.hidden_size)]
    for layer in range(model.num_layers):
        found += _layer(model, f"model.layers.{layer}.", f"decoder.layers.{layer}.")
    found.append(_vector("model.norm.weight", FINAL_NORM, model.hidden_size))
    if not model.share_embeddings_and_output_weights:
        found.append(_rows("lm_head.weight", OUTPUT, [range(vocab_size)], model.hidden_size))
    return found


def _layer(model: ModelConfig, theirs: str, ours: str) -> Iterator[HfTensor]:
    hidden, head, ffn = model.hidden_size, kv_channels(model), model.ffn_hidden_size
    heads, groups = model.num_attention_heads, model.num_query_groups
    qkv = f"{ours}self_attention.linear_qkv.weight"
    queries = heads // groups * head  # rows of a group's queries; its key and its value follow
    per_group = queries + 2 * head
    starts = [group * per_group for group in range(groups)]
    for name, first, length in (
        ("q_proj", 0, queries),
        ("k_proj", queries, head),
        ("v_proj", queries + head, head),
    ):
        rows = [range(start + first, start + first + length) for start in starts]
        yield _rows(f"{theirs}self_attn.{name}.weight", qkv, rows, hidden)
    yield _rows(
        f"{theirs}self_attn.o_proj.weight", f"{ours}self_attention.linear_proj.weight", [range(hidden)], heads * head
    )
    fc1 = f"{ours}mlp.linear_fc1.weight"
    yield _rows(f"{theirs}mlp.gate_proj.weight", fc1, [range(ffn)], hidden)
    yield _rows(f"{theirs}mlp.up_proj.weight", fc1, [range(ffn, 2 * ffn)], hidden)
    yield _rows(f"{theirs}mlp.down_proj.weight", f"{ours}mlp.linear_fc2.weight", [range(hidden)], ffn)
    yield _vector(f"{theirs}input_layernorm.weight", f"{ours}input_layernorm.weight", hidden)
    yield _vector(f"{theirs}post_attention_layernorm.weight", f"{ours}pre_mlp_layernorm.weight", hidden)


def _rows(name: str, tensor: str, blocks: list[range], columns: int) -> HfTensor:
    boxes = tuple(Box(offset=(rows.start, 0), size=(len(rows), columns)) for rows in blocks)
    return HfTensor(name=name, shape=(sum(map(len, blocks)), columns), tensor=tensor, boxes=boxes)


def _vector(name: str, tensor: str, length: int) -> HfTensor:
    return HfTensor(name=name, shape=(length,), tensor=tensor, boxes=(Box(offset=(0,), size=(length,)),))
