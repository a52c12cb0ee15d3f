"""Train a SentencePiece BPE model from documents, the same bytes every time.

SentencePiece drops text from its training in three ways without failing; none of them happens here:
- a sentence above its length limit is skipped: documents are cut into sentences below it, at line ends where possible;
- a sentence that holds U+2585 (its own mark for unknown) is skipped: that character is a space to the trainer;
- a number of threads and file names are written into the model: the number is fixed and there are no names, since
  otherwise equal training would give models with different hashes.
What it does drop is the line end that closes a sentence: nothing is lost when newlines are user-defined symbols.
All of this is about what the merges are learned from. Encoding keeps every character that the spec keeps (see spec.py).
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sentencepiece

from fanal.errors import UserError
from tokenizer.documents.parse import DocumentReader
from tokenizer.vocabulary.fast_json import fast_tokenizer_json
from tokenizer.vocabulary.folder import FAST_NAME, MODEL_NAME, Tokenizer
from tokenizer.vocabulary.publish import check_output, publish
from tokenizer.vocabulary.sampling import LanguageSampler, count_characters
from tokenizer.vocabulary.spec import (
    BOS_ID,
    CONTROL_PIECES,
    EOS_ID,
    PAD_ID,
    UNK_ID,
    TokenizerSpec,
    spec_as_yaml,
    symbol_piece,
)
from tokenizer.vocabulary.trained import FORMAT_VERSION, SPEC_NAME, TokenizerInfo

MAX_SENTENCE_BYTES = 1 << 16
NUM_THREADS = 4  # any number gives the same tokens, but it is stored in the model file, so it is not a choice


class SentenceStream:
    """Stream of prepared texts to the trainer, as sentences; it keeps what the trainer would hide: counts, the real error."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = texts
        self.num_documents = 0
        self.num_text_bytes = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self.texts:
                self.num_documents += 1
                self.num_text_bytes += len(text.encode("utf-8"))
                yield from split_sentences(text.replace("\u2585", " "), MAX_SENTENCE_BYTES)
        except (Exception, KeyboardInterrupt, SystemExit) as problem:
            # SentencePiece turns any exception of its iterator into a RuntimeError with a C++ place in it: a bad document,
            # a disk that fails, and Ctrl-C alike.
            self.error = problem
            raise


def split_sentences(text: str, max_bytes: int) -> Iterator[str]:
    """Cut text into pieces of at most max_bytes UTF-8 bytes that join to the text again.

    The cut is after the last line end that fits, else before the last space, else between two characters.
    """
    data = text.encode("utf-8")
    start = 0
    while len(data) - start > max_bytes:
        limit = start + max_bytes
        cut = data.rfind(b"\n", start, limit) + 1
        if cut <= start:
            cut = data.rfind(b" ", start, limit)
        if cut <= start:
            cut = limit
            while data[cut] & 0xC0 == 0x80:  # a byte inside a character
                cut -= 1
        yield data[start:cut].decode("utf-8")
        start = cut
    yield data[start:].decode("utf-8")


def train_tokenizer(
    spec: TokenizerSpec, inputs: Sequence[str | Path], output_dir: str | Path, text_field: str = "text"
) -> Tokenizer:
    """Train a tokenizer on jsonl documents and write its folder (see load.py), complete or not at all.

    The trainer holds all text in memory, several times over: give it a sample of a few GB, or let the spec choose one.
    Raises: UserError if output_dir exists, an input is bad or does not suit the spec's languages, or the text cannot
    give vocab_size tokens.
    """
    output_dir = Path(output_dir)
    check_output(output_dir)
    labels = ("language", "domain") if spec.languages else ()
    sampler = None
    counted_files = None
    if spec.languages or spec.training_characters is not None:
        counting = DocumentReader(inputs, text_field, labels=labels)
        sampler = LanguageSampler(spec, count_characters(counting, spec))
        counted_files = counting.input_files
    reader = DocumentReader(inputs, text_field, labels=labels)
    texts = sampler.choose(reader) if sampler else (spec.prepare(document.text) for document in reader)
    sentences = SentenceStream(text for text in texts if text)
    model = _train_model(spec, sentences)
    if counted_files not in (None, reader.input_files):
        raise UserError("an input file was changed while it was read; train again when nothing writes to the files")
    fast_json = fast_tokenizer_json(sentencepiece.SentencePieceProcessor(model_proto=model), spec)
    spec_yaml = spec_as_yaml(spec).encode("utf-8")
    info = TokenizerInfo(
        format_version=FORMAT_VERSION,
        vocab_size=spec.vocab_size,
        model_sha256=hashlib.sha256(model).hexdigest(),
        fast_json_sha256=hashlib.sha256(fast_json).hexdigest(),
        spec_sha256=hashlib.sha256(spec_yaml).hexdigest(),
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        unk_id=UNK_ID,
        pad_id=PAD_ID,
        text_field=text_field,
        num_documents=sentences.num_documents,
        num_text_bytes=sentences.num_text_bytes,
        languages=sampler.samples() if sampler else (),
        input_files=tuple(reader.input_files),
        sentencepiece_version=sentencepiece.__version__,
        proved_engine=None,
    )
    files = {MODEL_NAME: model, FAST_NAME: fast_json, SPEC_NAME: spec_yaml}
    return publish(output_dir, files, info)


def _train_model(spec: TokenizerSpec, sentences: SentenceStream) -> bytes:
    model = io.BytesIO()
    bos, eos, unk, pad = CONTROL_PIECES
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=spec.vocab_size,
            normalization_rule_name="identity",  # text is prepared in front of the model (see normalize.py)
            character_coverage=spec.character_coverage,
            byte_fallback=spec.byte_fallback,
            split_digits=spec.split_digits,
            max_sentencepiece_length=spec.max_piece_length,
            # A symbol written with a plain space would never match.
            user_defined_symbols=[symbol_piece(symbol) for symbol in spec.user_defined_symbols],
            control_symbols=list(spec.reserved_tokens),
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            pad_id=PAD_ID,
            bos_piece=bos,
            eos_piece=eos,
            unk_piece=unk,
            pad_piece=pad,
            max_sentence_length=MAX_SENTENCE_BYTES,
            num_threads=NUM_THREADS,
            minloglevel=2,
        )
    except RuntimeError as problem:
        if sentences.error is None:
            raise UserError(
                f"vocab_size ({spec.vocab_size}) does not suit these {sentences.num_text_bytes} bytes of text: {_in_words(problem)}"
            ) from None
    if sentences.error is not None:
        raise sentences.error
    return model.getvalue()


def _in_words(problem: RuntimeError) -> str:
    """Return what SentencePiece says of a size that does not suit, and one that does, if it gives the bound."""
    reason = str(problem).rsplit("] ", 1)[-1]  # behind the C++ place and condition
    if too_small := re.search(r"smaller than required_chars\. \d+ vs (\d+)", reason):
        least = int(too_small[1]) + 1
        return f"it must be at least {least}, for the characters and special tokens; vocab_size: {least} works"
    if too_high := re.search(r"too high .* value <= (\d+)", reason):
        return f"it gives at most {too_high[1]} tokens; vocab_size: {too_high[1]} works"
    return reason
