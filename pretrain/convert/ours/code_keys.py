"""Keys of a Hugging Face folder by which it has its reader run code: an export publishes none of them.

``auto_map`` names classes in files of the folder or of another repository, which `transformers` runs for whoever trusts it. No code
of a folder is imported, so in an export the key would name code of elsewhere, or nothing. Chat templates stay: they are rendered in
a sandbox. Source: transformers, dynamic_module_utils.py, pipelines/__init__.py, tokenization_auto.py.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pretrain.convert.ours.import_record import GENERATION_CONFIG

CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code")
TOKENIZER_CONFIG, TOKENIZER_JSON = "tokenizer_config.json", "tokenizer.json"
DESCRIBING = (TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", GENERATION_CONFIG)
"""Files that hold settings by name; in tokenizer.json a key may be a word of the vocabulary."""
PLAIN_CLASS = "PreTrainedTokenizerFast"
"""The class that reads tokenizer.json as it is, in every version of `transformers`."""


def code_named_in(files: Mapping[str, bytes]) -> list[str]:
    """Return "KEY of FILE" for every key that names code. A file that is no JSON object names none."""
    return [f"{key} of {name}" for name in DESCRIBING for key in CODE_KEYS if key in _object(files.get(name, b""))]


def without_code(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files without the keys that name code; a file that has none keeps its bytes.

    A tokenizer whose class is such code is read from its tokenizer.json, if it has one.
    """
    kept = dict(files)
    for name in DESCRIBING:
        content = _object(files.get(name, b""))
        rest = {key: value for key, value in content.items() if key not in CODE_KEYS}
        if len(rest) == len(content):
            continue
        own = {text.rpartition(".")[2] for text in _texts(content.get("auto_map"))}
        if name == TOKENIZER_CONFIG and TOKENIZER_JSON in files and rest.get("tokenizer_class") in own:
            rest["tokenizer_class"] = PLAIN_CLASS
        kept[name] = (json.dumps(rest, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
    return kept


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value of JSON, at any depth."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)
