"""Files that are no files of documents as they are: what each is, by its name or its first bytes, and what makes it one.

Every command in these messages works as it stands (tests/unit/tokenizer/test_tokenizer_advice.py runs them).
"""

import codecs
import contextlib
import itertools
import json
import os
import shlex
import sys
import zlib
from pathlib import Path

import orjson
import zstandard

from fanal.files import reading

HEAD_BYTES = 1 << 16
"""Bytes of a file that are looked at to tell what it is."""
LINES_BYTES = 1 << 20
"""Bytes of a file of JSON lines that are looked at."""
KNOWN = ".jsonl, .ndjson, .json and .txt (with or without .gz or .zst) and .parquet"
UNPACKED_BY = {".xz": "xz -d", ".lzma": "xz -d", ".bz2": "bzip2 -d", ".lz4": "lz4 -d --rm"}
ARCHIVES = {
    ".zip": "zipfile", ".tar": "tarfile", ".tgz": "tarfile", ".tar.gz": "tarfile", ".tar.xz": "tarfile", ".tar.bz2": "tarfile",
    ".tbz2": "tarfile", ".txz": "tarfile",
}  # fmt: skip
"""Module of the standard library that unpacks an archive, by the end of its name."""
UNKNOWN_COMPRESSIONS = (*UNPACKED_BY, ".zip", ".7z", ".br", ".z")
TABLES = {".csv": ",", ".tsv": "\\t"}
ARROW_SUFFIXES = (".arrow", ".feather", ".ipc")
MAGIC = (
    (b"\x1f\x8b", "gzip", ".gz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", ".zst"),
    (b"PAR1\x15", "Parquet", ".parquet"),
    (b"\xfd7zXZ\x00", "xz", ".xz"),
    (b"BZh91AY&SY", "bzip2", ".bz2"),
    (b"\x04\x22\x4d\x18", "LZ4", ".lz4"),
    (b"PK\x03\x04", "a zip archive", ".zip"),
    (b"ARROW1\0\0", "Arrow", ".arrow"),
)
"""First bytes of a file, what they say, and the suffix of such a file."""
SAME_SUFFIX = {".gzip": ".gz", ".zstd": ".zst"}
GZIP, ZSTANDARD = MAGIC[0][0], MAGIC[1][0]
LFS_POINTER = b"version https://git-lfs"
JSON_SPACE = b" \t\r\n"


def command(*words: object) -> str:
    """Return a command line, quoted as a shell wants it; a lone > or && stays one, and a path is not taken for an option."""
    return "`" + " ".join(_quoted(word) for word in words) + "`"


def _quoted(word: object) -> str:
    text = f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
    return text if text in (">", "&&") else shlex.quote(text)


def _free(path: Path) -> Path:
    """Return the path, or where something is already, one like it: a command in a message takes the place of nothing."""
    stem, dot, ends = path.name.partition(".")
    others = (path.with_name(f"{stem}-{number}{dot}{ends}") for number in itertools.count(2))
    return next(name for name in itertools.chain([path], others) if not os.path.lexists(name))


def _set_aside(path: Path) -> tuple[object, ...]:
    """Return the words that give a file a name which a folder of inputs leaves out, once something else was made of it."""
    return "&&", "mv", path, _free(path.with_name(path.name + ".orig"))


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file, as they lie on the disk."""
    with reading(path), path.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def how_to_read(path: Path) -> str:
    """Say what a file of an unknown name is and what to do, as the end of a sentence that begins with its path."""
    name, suffix = path.name.lower(), path.suffix.lower()
    unpacked = path.with_suffix("")
    for end, module in ARCHIVES.items():
        if name.endswith(end):
            folder = _free(path.with_name(path.name[: -len(end)] or "unpacked"))
            todo = command("python3", "-m", module, "-e", path, folder, *_set_aside(path))
            return f"is an archive: {todo} unpacks it to the folder {folder}"
    if suffix in UNPACKED_BY:
        to = [unpacked] if suffix == ".lz4" else []
        return (
            f"has a compression that is not supported: {command(*UNPACKED_BY[suffix].split(), path, *to)} makes {unpacked} of it; "
            "gzip and Zstandard are read as they are"
        )
    if suffix in UNKNOWN_COMPRESSIONS:
        return "has a compression that is not supported; unpack it, and name what comes out"
    if suffix in TABLES:
        return f"is a table as text: {_from_table(path, TABLES[suffix])} makes JSON lines of it, one a row"
    head = head_of(path)
    if suffix in ARROW_SUFFIXES:
        return f"is a table of Arrow: {_from_arrow(path, head)} makes Parquet of it"
    if known := _by_magic(path, head):
        return f"{known}; known are {KNOWN}"
    if suffix in (*SAME_SUFFIX, *SAME_SUFFIX.values()):
        inner = ".jsonl" if _is_json_line(_unpacked_head(head)) else ".txt"
        renamed = _renamed(path, path.with_name(path.stem + inner + path.suffix))
        return (
            f"does not say in its name what it holds once it is unpacked; known are {KNOWN}: {renamed} makes it known"
        )
    if _is_json_line(head):
        return f"holds JSON lines under an unknown suffix: {_renamed(path, path.with_name(path.name + '.jsonl'))} makes it known"
    if _is_text(head):
        return (
            f"has an unknown suffix; known are {KNOWN}: if the complete file is one document, "
            f"{_renamed(path, path.with_name(path.name + '.txt'))} makes it known"
        )
    return f"has an unknown suffix and holds no text; known are {KNOWN}: name files of those"


def not_compressed_so(path: Path, problem: object) -> str:
    """Say why a .gz or .zst cannot be decompressed, and what to do, as the end of a sentence."""
    head, plain = head_of(path), path.with_suffix("")
    if known := _by_magic(path, head):
        return known
    if not head.startswith((GZIP, ZSTANDARD)) and _is_text(head):
        return f"is not compressed, in spite of its name: {_renamed(path, plain)} gives it the right one"
    return f"cannot be decompressed ({problem}): it was cut or changed; copy the file again"


def not_parquet(path: Path, problem: object) -> str:
    """Say why a .parquet cannot be read, and what to do, as the end of a sentence."""
    head = head_of(path)
    known = None if head.startswith(b"PAR1") else _by_magic(path, head)
    if known is None and _is_json_line(head):
        known = f"holds JSON lines, not Parquet: {_renamed(path, path.with_suffix('.jsonl'))} gives it the right name"
    return known or f"cannot be read as Parquet ({problem}); copy the file again"


def not_lines_of_json(path: Path, head: bytes) -> str | None:
    """Say what a file of JSON lines is instead, by its first bytes; None if they may be JSON lines.

    Args: head: from the start of the decompressed file, its first lines at least.
    """
    if known := not_plain_text(path, head):
        return known
    start = head[:LINES_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip(JSON_SPACE)
    first, _, rest = start.partition(b"\n")
    plain = _unpacked_name(path)
    new = _free(plain.with_name(plain.stem + ".lines.jsonl"))
    if start[:1] not in (b"[", b"{") or (start[:1] == b"{" and _is_json(first)):
        return None
    if start[:1] == b"[":
        if _is_json(first) and rest.lstrip(JSON_SPACE)[:1] == b"{":
            return None  # one bad line among good ones
        program = (
            'import json, sys; [print(json.dumps(each)) for each in json.load(open(sys.argv[1], encoding="utf-8-sig"))]'
        )
        todo = command("python3", "-c", program, plain, ">", new, *_set_aside(plain))
        return f"is one JSON array, not JSON lines: {_unpack_first(path)}{todo} writes each document on a line"
    if _spans_lines(start):
        todo = command("jq", "-c", ".", plain, ">", new, *_set_aside(plain))
        what = "is JSON over several lines (pretty-printed), not JSON lines"
        return f"{what}: {_unpack_first(path)}{todo} writes each document on a line"
    return None


def not_plain_text(path: Path, head: bytes) -> str | None:
    """Say what a file is by its first bytes if that is not text in UTF-8; None if it may be."""
    if (name := _utf_16(head)) is not None:
        return f"is in {name}, not UTF-8: {converted(path, name)} converts it"
    if _unpacked_name(path) == path:
        return _by_magic(path, head)
    inside = [what for magic, what, _ in MAGIC if head.startswith(magic)]
    return f"holds {inside[0]} once it is unpacked; unpack it, and name what comes out" if inside else None


def converted(path: Path, encoding: str) -> str:
    """Return the commands that make UTF-8 of a file, and set the file itself aside."""
    plain = _unpacked_name(path)
    new = _free(plain.with_name(f"{plain.stem}.utf8{plain.suffix}"))
    todo = command("iconv", "-f", encoding, "-t", "UTF-8", plain, ">", new, *_set_aside(plain))
    return f"{_unpack_first(path)}{todo}"


def _by_magic(path: Path, head: bytes) -> str | None:
    if head.startswith(LFS_POINTER):
        return f"is a pointer of Git LFS, not the file itself: {command('git', 'lfs', 'pull')} in its folder fetches it"
    start = head.lstrip(JSON_SPACE)[:15].lower()
    if start.startswith((b"<!doctype html", b"<html")) and not path.name.lower().endswith(".txt"):
        return "is a web page, perhaps of a download that failed; fetch the file again"
    own = SAME_SUFFIX.get(path.suffix.lower(), path.suffix.lower())
    for magic, what, suffix in MAGIC:
        if head.startswith(magic) and own != suffix:
            right = (
                path.with_name(path.name + suffix) if suffix in (".xz", ".bz2", ".lz4") else _with_suffix(path, suffix)
            )
            return f"holds {what}, which its name does not say: {_renamed(path, right)} gives it the right one"
    return None


def _with_suffix(path: Path, suffix: str) -> Path:
    if suffix in (".parquet", ".zip", ".arrow"):
        return path.with_suffix(suffix)
    return path.with_suffix(suffix) if _unpacked_name(path) != path else path.with_name(path.name + suffix)


def _renamed(path: Path, to: Path) -> str:
    return command("mv", path, _free(to))


def _from_table(path: Path, delimiter: str) -> str:
    program = (
        "import csv, json, sys; csv.field_size_limit(2**31 - 1); "
        f'rows = csv.DictReader(open(sys.argv[1], newline="", encoding="utf-8-sig"), delimiter="{delimiter}"); '
        "[print(json.dumps(row)) for row in rows]"
    )
    return command("python3", "-c", program, path, ">", _free(path.with_suffix(".jsonl")))


def made_of(path: Path, program: str, new: Path) -> str:
    """Return the command that makes a new file with a program that needs pyarrow, and sets the file itself aside."""
    return command(sys.executable, "-c", program, path, _free(new), *_set_aside(path))


def _from_arrow(path: Path, head: bytes) -> str:
    kind = "file" if head.startswith(b"ARROW1") else "stream"
    program = (
        "import sys, pyarrow.ipc, pyarrow.parquet; "
        f"pyarrow.parquet.write_table(pyarrow.ipc.open_{kind}(sys.argv[1]).read_all(), sys.argv[2])"
    )
    return command(
        sys.executable, "-c", program, path, _free(path.with_suffix(".parquet"))
    )  # where pyarrow is installed


def _unpacked_name(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in (*SAME_SUFFIX, *SAME_SUFFIX.values()) else path


def unpacked(path: Path) -> str:
    """Return the command that unpacks a .zst of any window beside itself, and sets it aside."""
    return command("zstd", "-d", "--long=31", path, "-o", _free(_unpacked_name(path)), *_set_aside(path))


def _unpack_first(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in (".gz", ".gzip"):
        return f"{command('gzip', '-d', '-S', path.suffix, path)} and then "
    to = _unpacked_name(path)
    return f"{command('zstd', '-d', '--rm', path, '-o', to)} and then " if suffix in (".zst", ".zstd") else ""


def _unpacked_head(head: bytes) -> bytes:
    """Return the beginning of what the beginning of a .gz or .zst holds; empty if it is neither."""
    with contextlib.suppress(zlib.error, zstandard.ZstdError):
        if head.startswith(GZIP):
            return zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
        if head.startswith(ZSTANDARD):
            return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj().decompress(head)[:HEAD_BYTES]
    return b""


def _utf_16(head: bytes) -> str | None:
    """Return UTF-16 or UTF-32 as iconv names them; None for any other content. Without a mark, every other byte is NUL."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    look = head[:512]
    for first, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        nuls = look[first::2]
        if len(nuls) >= 2 and nuls.count(0) > 0.9 * len(nuls) and not look[1 - first :: 2].count(0):
            return name
    return None


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except ValueError:
        return False
    return True


def _is_json_line(head: bytes) -> bool:
    """Whether the bytes begin with a line that is an object in JSON, or with the beginning of a long one."""
    first, end, _ = head.lstrip(JSON_SPACE).partition(b"\n")
    return first.startswith(b"{") and (_is_json(first) or (not end and len(head) == HEAD_BYTES and first[1:2] == b'"'))


def _spans_lines(start: bytes) -> bool:
    """Whether JSON that begins with an object goes on behind the first line, or several objects share it."""
    text = start[:HEAD_BYTES].decode("utf-8", "ignore")
    first = text.partition("\n")[0].rstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return first == "{"  # of an object that is longer than what is looked at
    return end > len(first) or first[end:].lstrip().startswith("{")


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
