"""Verification of shards against their manifests. Quick: what `open_shard` checks, in constant time. Deep: every byte."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import DamageError, PassingError, UserError, user_path
from tokenizer.search.index_file import SearchIndex, index_path, rebuild_command
from tokenizer.shards.excluded_list import excluded_problem
from tokenizer.shards.index import check_files
from tokenizer.shards.manifest import ShardManifest, excluded_path, read_manifest
from tokenizer.shards.shard import open_shard, shard_paths
from tokenizer.shards.verify import columns_problems, deep_problems
from tokenizer.vocabulary.load import load_tokenizer

MAX_PROBLEMS = 20
"""Most problems listed for one shard; a badly damaged file needs no longer list."""


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """Result of verifying one shard."""

    prefix: str
    num_documents: int | None
    """Number of documents; None if the shard could not be opened."""
    num_tokens: int | None
    problems: tuple[str, ...]
    """Descriptions of what is wrong, where, and what to do; empty if nothing is."""
    note: str | None = None
    """What the verification could not check, though nothing is known to be wrong."""
    cut_short: bool = False
    """Whether the last problem is not the shard's: it could not be read for now, and another try may succeed."""

    @property
    def failed(self) -> bool:
        """Whether something is wrong with the shard."""
        return len(self.problems) > self.cut_short


def verify(
    prefixes: Sequence[str | Path], deep: bool = False, tokenizer_dir: str | Path | None = None
) -> list[VerifyResult]:
    """Check each shard, continuing after a bad one so that one call reports all. Deep reads all data, else almost none.

    Args: tokenizer_dir, if given, must be the tokenizer that made the shards.
    Raises: UserError if that tokenizer is bad.
    """
    tokenizer_sha256 = None if tokenizer_dir is None else load_tokenizer(tokenizer_dir).model_sha256
    return [_verify_one(prefix, deep, tokenizer_sha256) for prefix in prefixes]


def _verify_one(prefix: str | Path, deep: bool, tokenizer_sha256: str | None) -> VerifyResult:
    shard = note = None
    problems: list[str] = []
    cut_short = False
    try:
        manifest = read_manifest(prefix, may_be_empty=True)
        note = _note(prefix, manifest)
        if not manifest.num_documents:  # a part that got no document is sound, though nothing opens it
            check_files(prefix, manifest)
            problems += columns_problems(prefix, manifest, deep=deep) + search_problems(prefix, manifest, deep=deep)
            return VerifyResult(prefix=str(prefix), num_documents=0, num_tokens=0, problems=tuple(problems), note=note)
        shard = open_shard(prefix)
        if tokenizer_sha256 not in (None, shard.manifest.tokenizer_sha256):
            problems.append(
                f"{shard_paths(prefix)[2]} has tokenizer_sha256 {shard.manifest.tokenizer_sha256}, expected {tokenizer_sha256}; "
                "name the tokenizer that made the shard"
            )
        problems += columns_problems(prefix, manifest, deep=deep) + search_problems(prefix, manifest, deep=deep)
        if deep:
            for problem in deep_problems(shard):
                problems.append(problem)
                if len(problems) == MAX_PROBLEMS:
                    problems.append(f"{prefix}: more problems are not listed")
                    break
        elif shard.manifest.excluded_sha256 is not None and not excluded_path(prefix).exists():
            problems.append(excluded_problem(prefix, shard.manifest) or "")
    except PassingError as error:
        cut_short = True
        problems.append(f"{prefix} cannot be read for now, which says nothing about it: {error}")
    except (UserError, DamageError) as error:
        problems.append(str(error))
    return VerifyResult(
        prefix=str(prefix),
        num_documents=shard.num_documents if shard else None,
        num_tokens=shard.num_tokens if shard else None,
        problems=tuple(problems),
        note=note,
        cut_short=cut_short,
    )


def _note(prefix: str | Path, manifest: ShardManifest) -> str | None:
    if manifest.manifest_sha256 is not None:
        return None
    return (
        f"{shard_paths(prefix)[2]} has no hash of its own, since an earlier version wrote it: a change of its labels (licence, "
        "source, ...) would not be found; encode the shard again to have one"
    )


def search_problems(prefix: str | Path, manifest: ShardManifest, *, deep: bool) -> list[str]:
    """Return what is wrong with the search index, if there is one: of another shard, or altered. Deep: all of its bytes, else its
    footer and tables. Raises: PassingError."""
    path = index_path(prefix)
    with user_path(path):
        if not path.exists():
            return []
    remedy = f"`{rebuild_command(prefix)}`, with DIR the folder of its tokenizer, makes a new one; or remove it"
    try:
        index = SearchIndex(Path(prefix), manifest, remedy=remedy)
        if deep:
            index.check_pages()
    except (UserError, DamageError) as error:
        return [str(error)]
    return []
