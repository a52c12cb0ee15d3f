"""A small real corpus from the standard library of every CPython, for demos and tests on machines without internet.

code    the sources of the standard library
prose   its docstrings (one document per module) and the help topics of pydoc

A file's hash decides its split and its place in the order, so both are the same for every size: a larger corpus continues
where a smaller one stopped, and no document ever changes sides. A module's docstrings go where its source goes:
validation prose never occurs in a training document of code. (The texts differ between Python versions, so the corpus
does too.)
"""

import ast
import hashlib
import inspect
import json
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import UserError
from fanal.files import write_bytes_durably, writing

DEFAULT_MAX_BYTES_PER_DOMAIN = 4_000_000
VALIDATION_ONE_IN = 20
MIN_DOCUMENT_CHARACTERS = 200
LICENCE = "PSF-2.0"
SPLITS = ("train", "validation")

# Tests hold odd bytes and copies; encodings are tables of numbers; pydoc_data is prose in a .py, used as such below.
SKIPPED_FOLDERS = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "encodings",
    "pydoc_data",
}
TOPICS = Path("pydoc_data/topics.py")


@dataclass(frozen=True, kw_only=True)
class SampleDocument:
    """A candidate document, before deduplication and the size limit."""

    text: str
    source: str
    split: str


def make_sample_corpus(
    output_dir: str | Path,
    max_bytes_per_domain: int = DEFAULT_MAX_BYTES_PER_DOMAIN,
    *,
    library: Path | None = None,
) -> dict[str, int]:
    """Write output_dir/{train,validation}/{code,prose}.jsonl, each atomically; files of these names are replaced.

    Args: max_bytes_per_domain limits the UTF-8 bytes of text in a domain, both splits together; library is the folder of a
        standard library, that of the running Python if None.
    Returns: bytes of text written, by file name relative to output_dir.
    Raises: UserError if the limit leaves a file empty.
    """
    library = library or Path(sysconfig.get_paths()["stdlib"])
    output_dir = Path(output_dir)
    sizes: dict[str, int] = {}
    contents: dict[str, bytes] = {}
    for domain, documents in (("code", code_documents), ("prose", prose_documents)):
        kept = select(documents(library), max_bytes_per_domain)
        for split in SPLITS:
            name = f"{split}/{domain}.jsonl"
            lines = [_line(document, domain) for document in kept if document.split == split]
            if not lines:
                raise UserError(
                    f"max_bytes_per_domain ({max_bytes_per_domain}) leaves no document for {output_dir / name}; "
                    f"{DEFAULT_MAX_BYTES_PER_DOMAIN} is enough"
                )
            contents[name] = "".join(lines).encode("utf-8")
            sizes[name] = sum(len(d.text.encode("utf-8")) for d in kept if d.split == split)
    for name, content in contents.items():
        with writing(output_dir):
            (output_dir / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes_durably(output_dir / name, content)
    return sizes


def select(documents: Iterator[SampleDocument], max_bytes: int) -> list[SampleDocument]:
    """Return the first documents of distinct text that fit into max_bytes of UTF-8, stopping at the first that does not."""
    kept: list[SampleDocument] = []
    seen: set[bytes] = set()
    size = 0
    for document in documents:
        data = document.text.encode("utf-8")
        digest = text_hash(data)
        if digest in seen or len(document.text) < MIN_DOCUMENT_CHARACTERS:
            continue
        if size + len(data) > max_bytes:
            break
        seen.add(digest)
        kept.append(document)
        size += len(data)
    return kept


def text_hash(data: bytes) -> bytes:
    """Return a 16-byte hash: the first 8 bytes decide the split, the last 8 the order."""
    return hashlib.blake2b(data, digest_size=16).digest()


def split_of(digest: bytes) -> str:
    """Return validation for one hash in 20, else train."""
    return "validation" if int.from_bytes(digest[:8]) % VALIDATION_ONE_IN == 0 else "train"


def code_documents(library: Path) -> Iterator[SampleDocument]:
    """Yield each source file of the library, in the order of its hash."""
    for path, text in _by_hash(_sources(library)):
        yield SampleDocument(text=text, source=path, split=split_of(text_hash(text.encode("utf-8"))))


def prose_documents(library: Path) -> Iterator[SampleDocument]:
    """Yield help topics, and the docstrings of each module, in the order of the hash of the text they are taken from."""
    originals: list[tuple[str, str]] = list(_sources(library))
    topics = [(f"pydoc_data.topics[{name!r}]", text) for name, text in _help_topics(library)]
    topic_names = {name for name, _ in topics}
    for name, text in _by_hash(iter(originals + topics)):
        split = split_of(text_hash(text.encode("utf-8")))
        if name in topic_names:
            yield SampleDocument(text=text, source=name, split=split)
        else:
            module = module_name(name)
            yield SampleDocument(text=docstrings(text, module), source=module, split=split)


def docstrings(source: str, module: str) -> str:
    """Return all docstrings of a module in the order of the file, each under its qualified name; empty if it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old sources
        tree = ast.parse(source)
    sections: list[str] = []

    def visit(node: ast.AST, name: str) -> None:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node, clean=False):
                sections.append(f"{name}\n\n{inspect.cleandoc(text)}\n")
            for child in node.body:
                visit(child, f"{name}.{getattr(child, 'name', '')}")

    visit(tree, module)
    return "\n".join(sections)


def module_name(path: str) -> str:
    """Return the module name of a source file: `json/__init__.py` -> `json`, `json/decoder.py` -> `json.decoder`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _by_hash(documents: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(documents, key=lambda document: (text_hash(document[1].encode("utf-8"))[8:], document[0]))


def _sources(library: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        describes_this_machine = relative.parts[0].startswith(("config-", "_sysconfigdata"))
        if SKIPPED_FOLDERS.isdisjoint(relative.parts) and not describes_this_machine:
            try:
                yield relative.as_posix(), path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                continue


def _help_topics(library: Path) -> Iterator[tuple[str, str]]:
    tree = ast.parse((library / TOPICS).read_bytes())
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            yield from sorted(ast.literal_eval(node.value).items())


def _line(document: SampleDocument, domain: str) -> str:
    fields = {"text": document.text, "domain": domain, "licence": LICENCE, "source": document.source}
    return json.dumps(fields, ensure_ascii=False) + "\n"
