"""Detached signatures of small files: NAME.sig beside NAME (ssh_signature.py), made and checked with the library cryptography.

A hash finds every accident. A signature finds forgery as well, by whoever does not have the key, if the reader has the public key
from somewhere else than the files. Keys come from outside: none is made or kept here.
"""

import os
import shlex
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import DamageError, UserError, user_path
from fanal.files import reading, writing
from fanal.new_files import create_file
from fanal.plain_files import read_named, read_plain
from fanal.records import MAX_RECORD_BYTES
from fanal.ssh_signature import (
    HOW_TO_MAKE,
    MAX_SIGNATURE_BYTES,
    NAMESPACE,
    PublicKey,
    Signature,
    SignatureFormatError,
    parse_public_keys,
    parse_signature,
    signature_text,
    signed_bytes,
)

SIGNATURE_END = ".sig"
"""What follows the name of a file in the name of its signature; the end that ssh-keygen writes."""
MAX_KEY_BYTES = 1 << 20


class SignatureError(DamageError):
    """A file has no signature, or not one by the expected key over these bytes. Exit code 76."""


@dataclass(frozen=True, kw_only=True)
class PrivateKey:
    """A key that signs."""

    public: PublicKey
    sign: Callable[[bytes], bytes]
    """Function from a message to the 64 bytes of Ed25519."""


def signature_path(path: Path) -> Path:
    """Return the path of the signature of a file."""
    return path.with_name(path.name + SIGNATURE_END)


def read_private_key(path: str | Path) -> PrivateKey:
    """Read an Ed25519 key in OpenSSH's format, without a passphrase.

    Raises: UserError if it is another kind of key or file, or if others may read it.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    except ImportError:
        raise _no_library() from None
    name = f"--key ({path})"
    with user_path(path), reading(Path(path)):
        mode = Path(path).stat().st_mode
        content = read_named(Path(path), max_bytes=MAX_KEY_BYTES)
    try:
        key = load_ssh_private_key(content, password=None)
    except TypeError:  # it has a passphrase
        raise UserError(
            f"{name} must be a key without a passphrase; ssh-keygen asks for it, and makes the same signature: "
            f"`ssh-keygen -Y sign -n {NAMESPACE} -f {shlex.quote(str(path))} FILE` works"
        ) from None
    except Exception as error:  # the library raises errors of its own beside ValueError
        raise UserError(f"{name} must be a private key of OpenSSH, and is not one ({error}); {HOW_TO_MAKE}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{name} must be a key of Ed25519, and is one of another kind; {HOW_TO_MAKE}")
    if stat.S_ISREG(mode) and mode & 0o077:
        raise UserError(
            f"{name} must be readable by you alone, and its mode is {stat.S_IMODE(mode):o}; `chmod 600 {shlex.quote(str(path))}` "
            "works, if nobody has read it yet"
        )
    return PrivateKey(public=PublicKey(raw=key.public_key().public_bytes_raw()), sign=key.sign)


def read_public_keys(path: str | Path) -> tuple[PublicKey, ...]:
    """Read the public keys of a file, each of which may have signed. Raises: UserError."""
    with user_path(path), reading(Path(path)):
        content = read_named(Path(path), max_bytes=MAX_KEY_BYTES)
    return parse_public_keys(content, f"--public-key ({path})")


def sign_file(path: Path, key: PrivateKey) -> Path:
    """Write the signature of a file beside it, and return its path. Raises: UserError if there is one already; as ``writing``."""
    target = signature_path(path)
    if os.path.lexists(target):
        raise UserError(
            f"{target} must not exist yet, since it may be somebody's signature; `rm {shlex.quote(str(target))}` makes room for "
            "another"
        )
    hash_name = b"sha512"
    raw = key.sign(signed_bytes(_content_of(path), namespace=NAMESPACE.encode(), hash_name=hash_name))
    text = signature_text(Signature(key=key.public, namespace=NAMESPACE.encode(), hash_name=hash_name, raw=raw))
    with writing(target), create_file(target, mode=stat.S_IMODE(path.stat().st_mode) & 0o666) as stream:
        stream.write(text.encode())
    return target


def check_signature(path: Path, keys: tuple[PublicKey, ...]) -> PublicKey:
    """Check the signature of a file, and return which of these keys made it.

    Raises: SignatureError if there is none, if another key made it, or if it is not of these bytes.
    """
    target = signature_path(path)
    if not os.path.lexists(target):
        raise SignatureError(
            f"{path} has no signature: {target} does not exist; get it where the file came from, or leave --public-key out"
        )
    with reading(target):
        text = read_plain(target, max_bytes=MAX_SIGNATURE_BYTES)
    try:
        found = parse_signature(text)
    except SignatureFormatError as error:
        raise SignatureError(f"{target} is not a signature of OpenSSH with Ed25519: {error}; get it again") from None
    if found.namespace != NAMESPACE.encode():
        given = found.namespace.decode(errors="replace")
        raise SignatureError(
            f"{target} was made for {given!r}, expected {NAMESPACE!r}: `ssh-keygen -Y sign -n {NAMESPACE}` makes one"
        )
    if found.key not in keys:
        expected = " or ".join(key.fingerprint for key in keys)
        raise SignatureError(f"{target} is by the key {found.key.fingerprint}, expected {expected}")
    message = signed_bytes(_content_of(path), namespace=found.namespace, hash_name=found.hash_name)
    if not _is_by(found.key, found.raw, message):
        raise SignatureError(
            f"{target} is not the signature of what {path} holds now: one of the two changed after it was signed; get both again"
        )
    return found.key


def _is_by(key: PublicKey, raw: bytes, message: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise _no_library() from None
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(raw, message)
    except InvalidSignature:
        return False
    return True


def _no_library() -> UserError:
    return UserError(
        "signatures need the library cryptography, which is not installed; pip install 'fanal[sign]' installs it"
    )


def _content_of(path: Path) -> bytes:
    with reading(path):
        return read_plain(path, max_bytes=MAX_RECORD_BYTES)
