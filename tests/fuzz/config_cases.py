"""Wrong configs, made from a seed: every key of the schema with values of the wrong kind, files that are no YAML, overrides that
say nothing, pairs of keys that contradict each other. The same seed and number make the same case.
"""

import copy
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from launch.sites.schema import SiteConfig
from pretrain.config.schema import RunConfig

BASE: dict[str, Any] = {
    "run_dir": "runs/x",
    "model": {"num_layers": 4, "hidden_size": 64, "ffn_hidden_size": 176, "num_attention_heads": 8, "num_query_groups": 4, "vocab_size": 2000},
    "data": {"tokenizer": "no/tokenizer", "seq_length": 64, "train": [{"prefix": "no/train"}], "validation": [{"prefix": "no/validation"}]},
    "optim": {"lr": 1e-3},
    "train": {"train_steps": 10, "global_batch_size": 8, "micro_batch_size": 2},
    "parallel": {"device": "cpu"},
}  # fmt: skip
"""A config that passes every rule; its data are not there, so that no command trains."""
OTHERS = {
    "train.batch_ramp": {"start": 2, "increment": 2, "samples": 20},
    "train.batch_stages": [{"start_sample": 24, "global_batch_size": 16}],
    "data.phases": [{"start_sample": 8, "train": [{"prefix": "b"}]}],
}
"""Sections that are null or empty by default."""
RAW = "RAW-VALUE"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One wrong config: a file, or what lies in its place, and overrides."""

    number: int
    kind: str
    content: bytes | None = None
    """Bytes of the file; None where ``place`` says what is there."""
    place: str = "file"
    """``file``, or one of PLACES."""
    overrides: tuple[str, ...] = ()
    site: bool = False
    """Whether the file is a site's."""

    def write(self, folder: Path) -> Path:
        """Make the file; returns its path."""
        path = folder / "run.yaml"
        if self.content is not None:
            path.write_bytes(self.content)
            return path
        return PLACES[self.place](path) or path


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


PLACES: dict[str, Callable[[Path], Path | None]] = {
    "nothing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a link to nothing": lambda path: path.symlink_to("gone.yaml"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a sparse file of 1 TiB": _sparse,
    "a pipe": _fifo,
    "the null device": lambda path: Path("/dev/null"),
    "zeros without end": lambda path: Path("/dev/zero"),
    "a path below a file": lambda path: Path("/etc/passwd/run.yaml"),
    "a long name": lambda path: path.with_name("a" * 300 + ".yaml"),
    "a name with a line's end": lambda path: path.with_name("a\nb.yaml"),
    "a name that is not UTF-8": lambda path: path.with_name("a\udcff.yaml"),
    "no name": lambda path: Path(),
}

VALUES = (
    "true", "no", "null", "~", "''", '""', "abc", "[]", "[1]", "[null]", "{}", "{a: 1}", "[{}]", "[[]]", "{0: a}", "1.5", "-1", "0", "1", "3", "7",
    "-0.0", "1e9", "1e400", "-1e400", "1e-320", ".inf", "-.inf", ".nan", "9223372036854775807", "9223372036854775808", "18446744073709551616",
    "-9223372036854775809", "9" * 30, "-" + "9" * 30, "9" * 400, "9" * 5000, "0x7fffffffffffffff", "0x" + "f" * 300, "0x" + "f" * 6000, "0b11", "0o17",
    "1_000", "1:30", "1:30:30", "2020-01-01", "2020-01-01T00:00:00Z", "!!binary aGk=", "!!set {a}", "!!omap [a: 1]", "!!python/name:os.system",
    "!!python/object/apply:os.system [ls]", "!!float 3", '!!int "3"', "!!str 5", "!foo 5", r'"\0"', r'"a\nb"', r'"\e[2J"', r'"\uD800"', r'"\U00110000"',
    "\u00e9\u00e8", "\u65e5\u672c\u8a9e", "\u202eabc", "\U0001f600", "\u00a0", "\ufeff", "x" * 5000, "???", "'???'", "${run_dir}", "${model}", "${nope}",
    "${data.train}", "${model.num_layers}", "${oc.env:HOME}", "${oc.env:NOPE}", "${oc.env:NOPE,5}", "${oc.env:NOPE,null}", "${oc.env:}", "${oc.decode:'[1,2]'}",
    "${oc.decode:'${run_dir}'}", "${oc.create:{a:1}}", "${oc.select:model.num_layers}", "${oc.select:nope}", "${oc.dict.keys:model}", "${oc.dict.values:model}",
    "${..run_dir}", "${.}", "${...x}", "${a", "${}", "${${run_dir}}", "${run_dir}${run_dir}", "$", "$HOME/x", "~/x", "/dev/null", "/", ".", "..",
    "a" * 300, "a/" * 3000, "*x", "&a b", "&a [*a]", "<<", "- a", "%", "@a", "`a", "?", "? a", "|\n    a\n    b", ">-\n    b", "\t5", "5\t", "+5", "5.0",
    '"5"', '" 5 "', "on", '"null"', "#", "a: b: c", "'", '"', "[", "]", "{", "}", ",", "!", "&", "*", "bf16", "fp32", "cosine", "WSD", "cuda", "auto",
    "[" * 50 + "]" * 50, "[" * 1500 + "]" * 1500, "{a: " * 50 + "1" + "}" * 50, "{a: " * 1500 + "1" + "}" * 1500,
)  # fmt: skip
"""Values as YAML, good and bad."""

WORDS = (
    "learning_rate",
    "batch_size",
    "seed",
    "lr",
    "num_layer",
    "__class__",
    "",
    " ",
    "0",
    "a.b",
    "[",
    "\u00e9",
    "_",
    "class",
    "null",
    "held_out",
)


def wrong_config(seed: int, number: int) -> Case:
    """The case of this number."""
    draw = random.Random(f"{seed}/{number}")
    kinds = [kind for kind, (_, weight) in KINDS.items() for _ in range(weight)]
    rounds, place = divmod(number, len(kinds))
    make, weight = KINDS[kinds[place]]
    of_its_kind = rounds * weight + place - kinds.index(kinds[place])  # so that every key has its turn
    return Case(number=number, kind=kinds[place], **make(draw, of_its_kind))


def _value(draw: random.Random) -> str:
    if draw.random() < 0.3:
        size = draw.choice((3, 8, 16, 31, 32, 53, 62, 63, 64, 65, 128, 1100))
        return str(draw.choice((1, 1, -1)) * draw.getrandbits(size))
    if draw.random() < 0.1:
        return repr(draw.choice((1, -1)) * draw.random() * 10.0 ** draw.randint(-320, 308))
    return draw.choice(VALUES)


def _in_the_file(draw: random.Random, number: int) -> dict[str, Any]:
    tree, key = copy.deepcopy(BASE), KEYS[number % len(KEYS)]
    _set(tree, key, RAW)
    return {"content": text_of(tree, _value(draw))}


def _as_an_override(draw: random.Random, number: int) -> dict[str, Any]:
    key = KEYS[number % len(KEYS)]
    return {"content": text_of(BASE), "overrides": (f"{key}={_value(draw)}",)}


def _several_overrides(draw: random.Random, number: int) -> dict[str, Any]:
    keys = draw.sample(KEYS, draw.randint(2, 8))
    return {"content": text_of(BASE), "overrides": tuple(f"{key}={_value(draw)}" for key in keys)}


def _contradiction(draw: random.Random, number: int) -> dict[str, Any]:
    """Keys with values of the right kind that may not go together."""
    numbers = [key for key in KEYS if {int, float} & set(HINTS[key]) and "batch_ramp" not in key]
    chosen = draw.sample(numbers, draw.randint(2, 4))
    return {
        "content": text_of(BASE),
        "overrides": tuple(f"{key}={draw.choice((1, 2, 3, 5, 7, 8, 16, 64, 100, 1000, 10**6, 2**31, 2**40))}" for key in chosen),
    }  # fmt: skip


def _unknown_key(draw: random.Random, number: int) -> dict[str, Any]:
    word = draw.choice((*WORDS, draw.choice(KEYS)[1:], draw.choice(KEYS) + "s", draw.choice(KEYS).split(".")[-1]))
    if draw.random() < 0.5:
        return {"content": text_of(BASE), "overrides": (f"{word}={_value(draw)}",)}
    tree = copy.deepcopy(BASE)
    place = draw.choice([tree, *(section for section in tree.values() if isinstance(section, dict))])
    place[draw.choice((word, 5, 1.5, True, None))] = draw.choice((RAW, {"a": RAW}, [RAW]))
    return {"content": text_of(tree, _value(draw))}


def _another_tree(draw: random.Random, number: int) -> dict[str, Any]:
    """A section that is another kind of tree altogether."""

    def grown(depth: int) -> Any:
        shape = draw.random() if depth else 0
        if shape < 0.4:
            return draw.choice((None, True, 5, -1, 2.5, "a", "", 10**40, "${run_dir}"))
        if shape < 0.7:
            return [grown(depth - 1) for _ in range(draw.randint(0, 4))]
        return {draw.choice((*WORDS, "train", "prefix", "weight")): grown(depth - 1) for _ in range(draw.randint(0, 4))}

    tree = copy.deepcopy(BASE)
    tree[draw.choice([*BASE, "checkpoint", "log"])] = grown(4)
    return {"content": text_of(tree)}


def _broken_text(draw: random.Random, number: int) -> dict[str, Any]:
    """A config of which bytes were lost, doubled or changed."""
    content = bytearray(text_of(BASE))
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        at, act = draw.randrange(len(content)), draw.randrange(4)
        if act == 0:
            content[at] = draw.choice((0, 9, 10, 32, 58, 91, 123, 0x80, 0xFF, draw.randrange(256)))
        elif act == 1:
            del content[at : at + draw.randint(1, 30)]
        elif act == 2:
            content[at:at] = draw.choice(
                (b"\t", b"  ", b": ", b"- ", b"\n", b"\r", b"\x00", b"${", b"&a ", b"*a ", b"!!", b"'", b'"', b"\xff")
            )
        else:
            content[at:at] = content[max(0, at - 40) : at]
        content = content or bytearray(b" ")
    return {"content": bytes(content)}


def _no_config(draw: random.Random, number: int) -> dict[str, Any]:
    """Whole files that are something else."""
    text = text_of(BASE)
    files = (
        b"", b" ", b"\n\n", b"#\n", b"---\n", b"...\n", b"null\n", b"[]\n", b"5\n", b"text\n", b"- a\n", b"\t\n", b"\xef\xbb\xbf" + text,
        text.decode().encode("utf-16"), text.decode().encode("utf-32"), text.replace(b"\n", b"\r\n"), text.replace(b"\n", b"\r"), text.replace(b"  ", b"\t"),
        text + b"---\n" + text, text + text, text + b"\x00", b"\x7fELF" + bytes(range(256)) * 40, bytes(draw.randbytes(4000)), b"PK\x03\x04" + draw.randbytes(500),
        b"\x1f\x8b\x08" + draw.randbytes(500), b'{"run_dir": "x"}', b'{"run_dir": "x",}', b"%YAML 9.9\n---\n" + text, b"%TAG ! tag:x:\n---\n" + text,
        b"a: &a {b: *a}\n", b"&a [*a, *a]\n", b"<<: {run_dir: x}\n" + text, b"<<: [1]\n" + text, b"<<: *x\n" + text, b"? [a, b]\n: 1\n" + text, b"? {a: b}\n" + text,
        _bomb(9, 9), _bomb(9, 9, mapping=True), _bomb(30, 2), b"[" * 5000, b"{a: " * 5000, b"- " * 5000 + b"a", b"".join(b" " * depth + b"a:\n" for depth in range(900)),
        b"a" * 900_000, b"a: 1\n" * 9000, b"".join(b"k%d: 1\n" % item for item in range(9000)), b"data: {train: [" + b"{prefix: a}," * 3000 + b"]}", b'"' + b"\\" * 9000,
        text.replace(b"prefix: no/train", b"prefix: ${data.validation[0].prefix}${data.validation[0].prefix}"),
        _doubling(40), text + b"model: {num_layers: 5}\n", text.replace(b"  num_layers: 4\n", b"  num_layers: 4\n  num_layers: 5\n"),
    )  # fmt: skip
    return {"content": files[number % len(files)]}


def _bomb(levels: int, times: int, *, mapping: bool = False) -> bytes:
    """Aliases of aliases: a few lines that stand for times ** levels items."""
    lines = ["x0: &x0 [a, a]"]
    for level in range(1, levels):
        items = ", ".join(f"k{item}: *x{level - 1}" if mapping else f"*x{level - 1}" for item in range(times))
        lines.append(f"x{level}: &x{level} {'{' if mapping else '['}{items}{'}' if mapping else ']'}")
    return "\n".join(lines).encode()


def _doubling(length: int) -> bytes:
    """Interpolations that double a text again and again."""
    tree = copy.deepcopy(BASE)
    sources = [{"prefix": f"${{data.train[{item}].prefix}}${{data.train[{item}].prefix}}"} for item in range(1, length)]
    tree["data"]["train"] = [*sources, {"prefix": "aa"}]
    return text_of(tree)


def _in_its_place(draw: random.Random, number: int) -> dict[str, Any]:
    return {"place": list(PLACES)[number % len(PLACES)]}


def _no_override(draw: random.Random, number: int) -> dict[str, Any]:
    """Words that are no override, or hardly one."""
    key, value = draw.choice(KEYS), _value(draw)
    words = (
        "", "=", "==", f"{key}", f"{key}=", f"={value}", f"{key}=={value}", f"{key} = {value}", f" {key}={value}", f"{key}.={value}", f".{key}={value}",
        f"{key}..a={value}", f"{key}[0]={value}", f"{key}[0={value}", f"{key}]={value}", f"[{key}]={value}", f"{key}[-1]={value}", f"{key}[9999999999]={value}",
        f"{key}.0.1.2={value}", f"{key}.a.b.c={value}", f"+{key}={value}", f"++{key}={value}", f"~{key}", f"{key}@a={value}", f"{key}\\.a={value}", f"{key}\\={value}",
        f"{key}=a\udcff", f"a\udcff={value}", f"{key}=\x1b[2J", f"{key}=a\nb", f"\u00e9{key}={value}", "." * 500 + f"={value}", "a." * 400 + f"a={value}", "a" * 100_000,
        f"{key}=" + "x" * 100_000, f"{key}=" + "[" * 30_000, "-", "--", "data.train[0].weight=2", "data.train.0.weight=2", "data.train[0]=a", "data.phases[0].train[0].prefix=a",
        "data.held_out=[{prefix: a}]",
    )  # fmt: skip
    also = ("data.validation=[]",) if draw.random() < 0.1 else ()
    return {"content": text_of(BASE), "overrides": (words[number % len(words)], *also)}


def _site(draw: random.Random, number: int) -> dict[str, Any]:
    base = yaml.safe_load(
        (Path(__file__).parents[2] / "launch" / "sites" / "jean-zay-h100.yaml").read_text(encoding="utf-8")
    )
    if draw.random() < 0.2:
        return {"content": _no_config(draw, number)["content"], "site": True}
    keys = [field.name for field in fields(SiteConfig)]
    base[draw.choice(keys) if draw.random() < 0.9 else draw.choice(WORDS)] = draw.choice(
        (RAW, {"a": RAW}, [RAW], {"a": {"b": RAW}}, [{"name": RAW}])
    )
    return {"content": text_of(base, _value(draw)), "site": True}


def _leaves(cls: Any, prefix: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every key of the schema, sections too, with the types of its values."""
    for name, hint in get_type_hints(cls).items():
        inner = [arg for arg in get_args(hint) if arg is not type(None)] if isinstance(hint, UnionType) else [hint]
        yield f"{prefix}{name}", tuple(inner)
        for part in inner:
            if is_dataclass(part):
                yield from _leaves(part, f"{prefix}{name}.")
            elif get_origin(part) is list and is_dataclass(get_args(part)[0]):
                yield from _leaves(get_args(part)[0], f"{prefix}{name}[0].")


HINTS = dict(_leaves(RunConfig))
KEYS = [key for key in HINTS if "[0]" not in key]
KINDS: dict[str, tuple[Callable[[random.Random, int], dict[str, Any]], int]] = {
    "a wrong value in the file": (_in_the_file, 5),
    "a wrong value as an override": (_as_an_override, 4),
    "several wrong overrides": (_several_overrides, 2),
    "numbers that contradict each other": (_contradiction, 2),
    "a key that is none": (_unknown_key, 2),
    "a section that is another tree": (_another_tree, 1),
    "a text with broken bytes": (_broken_text, 3),
    "a file that is something else": (_no_config, 2),
    "something else in its place": (_in_its_place, 1),
    "a word that is no override": (_no_override, 2),
    "a wrong site": (_site, 1),
}
"""What is made of a draw, and how many cases of each 25."""


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    place = tree
    for depth, name in enumerate(sections, 1):
        place = place.setdefault(name, copy.deepcopy(OTHERS.get(".".join(sections[:depth]), {})))
    place[last] = value


def text_of(tree: Any, raw: str = "") -> bytes:
    """The tree as YAML, with the raw value in its place."""
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=10**9)
    return text.replace(RAW, raw).encode("utf-8", "surrogateescape")
