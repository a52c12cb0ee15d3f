"""The format of ``ssh-keygen -Y sign``: a detached signature as text, by an Ed25519 key of OpenSSH.

The format is OpenSSH's PROTOCOL.sshsig. Everybody with an account on a cluster has the program, and many have a key; it makes
the same signatures (``-n fanal``), with keys in an agent or behind a passphrase too, and checks ours. One kind of key is known,
Ed25519, whose signatures depend on nothing but key and content.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from fanal.errors import UserError

NAMESPACE = "fanal"
"""What a signature is for: one that its owner gave for anything else, such as a commit of git, is not taken for one of these."""
KEY_TYPE = "ssh-ed25519"
FIRST_LINE, LAST_LINE = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
LINE_LENGTH = 70
"""Characters of a line, as ssh-keygen writes them; others are read."""
MAX_SIGNATURE_BYTES = 8192
HASHES = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}
_MAGIC, _VERSION = b"SSHSIG", 1
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_OTHER_KEY = re.compile(r"(ssh-(rsa|dss)|ecdsa-sha2-\S+|sk-\S+@openssh\.com)\s")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
HOW_TO_MAKE = "`ssh-keygen -t ed25519 -N '' -f my-key` makes my-key and my-key.pub, which work"


class SignatureFormatError(ValueError):
    """A text is not a signature of this format. Whoever read it makes it damage."""


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """An Ed25519 public key."""

    raw: bytes
    """The 32 bytes of the key."""

    @property
    def blob(self) -> bytes:
        """The key as OpenSSH encodes it."""
        return _string(KEY_TYPE.encode()) + _string(self.raw)

    @property
    def fingerprint(self) -> str:
        """The name of the key that ``ssh-keygen -l`` prints."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A signature, parsed and not yet checked."""

    key: PublicKey
    """The key that it says it was made with."""
    namespace: bytes
    hash_name: bytes
    raw: bytes
    """The 64 bytes of Ed25519."""


def signed_bytes(content: bytes, *, namespace: bytes, hash_name: bytes) -> bytes:
    """Return what a key signs in place of the content."""
    digest = HASHES[hash_name](content).digest()
    return _MAGIC + _string(namespace) + _string(b"") + _string(hash_name) + _string(digest)


def signature_text(signature: Signature) -> str:
    """Return a signature as the content of its file."""
    parts = (signature.key.blob, signature.namespace, b"", signature.hash_name)
    blob = _MAGIC + _VERSION.to_bytes(4, "big") + b"".join(map(_string, parts))
    blob += _string(_string(KEY_TYPE.encode()) + _string(signature.raw))
    digits = base64.b64encode(blob).decode()
    lines = [digits[start : start + LINE_LENGTH] for start in range(0, len(digits), LINE_LENGTH)]
    return "\n".join((FIRST_LINE, *lines, LAST_LINE)) + "\n"


def parse_signature(content: bytes) -> Signature:
    """Parse the content of a signature's file; of a signature there is one text only, but for the length of its lines.

    Raises: SignatureFormatError.
    """
    try:
        first, *lines, last, end = content.decode("ascii").split("\n")
        digits = "".join(lines)
        blob = base64.b64decode(digits, validate=True)
    except (ValueError, binascii.Error):
        raise SignatureFormatError("it is not lines of base64 between BEGIN and END SSH SIGNATURE") from None
    if (first, last, end) != (FIRST_LINE, LAST_LINE, "") or base64.b64encode(blob).decode() != digits:
        raise SignatureFormatError("it is not lines of base64 between BEGIN and END SSH SIGNATURE")
    version = _MAGIC + _VERSION.to_bytes(4, "big")
    if not blob.startswith(version):
        raise SignatureFormatError(f"it is not version {_VERSION} of the format")
    key_blob, namespace, reserved, hash_name, raw = _strings(blob[len(version) :], 5)
    if reserved or hash_name not in HASHES:
        raise SignatureFormatError("its hash must be sha256 or sha512, and nothing may stand in the reserved field")
    return Signature(
        key=PublicKey(raw=_of_type(key_blob, _KEY_BYTES)),
        namespace=namespace,
        hash_name=hash_name,
        raw=_of_type(raw, _SIGNATURE_BYTES),
    )


def parse_public_keys(content: bytes, name: str) -> tuple[PublicKey, ...]:
    """Parse the lines of a .pub file, or of several: ``ssh-ed25519 BASE64 COMMENT``. Keys of other kinds are passed over.

    Args: name: of the file, for messages. Raises: UserError, also if there is no Ed25519 key.
    """
    found = tuple(_keys_in(content.decode("utf-8", errors="replace"), name))
    if not found:
        raise UserError(f"{name} must hold a public key of Ed25519 (a line that begins with {KEY_TYPE}); {HOW_TO_MAKE}")
    return found


def _keys_in(text: str, name: str) -> Iterator[PublicKey]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#") or _OTHER_KEY.match(line):
            continue
        kind, _, rest = line.partition(" ")
        digits = rest.split(" ")[0]
        try:
            if kind != KEY_TYPE or not _BASE64.fullmatch(digits):
                raise SignatureFormatError("no key")
            yield PublicKey(raw=_of_type(base64.b64decode(digits, validate=True), _KEY_BYTES))
        except (SignatureFormatError, binascii.Error):
            raise UserError(
                f"{name} must hold public keys of OpenSSH, and line {number} is none ({KEY_TYPE} BASE64 COMMENT); {HOW_TO_MAKE}"
            ) from None


def _of_type(blob: bytes, num_bytes: int) -> bytes:
    """Return the bytes of a key or of a signature. Raises: SignatureFormatError if it is of another kind than Ed25519."""
    if not blob.startswith(_string(KEY_TYPE.encode())):
        raise SignatureFormatError(f"it is by a key of another kind than {KEY_TYPE}")
    raw = _strings(blob, 2)[1]
    if len(raw) != num_bytes:
        raise SignatureFormatError(f"it has {len(raw)} bytes where Ed25519 has {num_bytes}")
    return raw


def _string(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


def _strings(content: bytes, count: int) -> list[bytes]:
    """Return the strings that these bytes consist of. Raises: SignatureFormatError if there are not ``count`` of them."""
    found = []
    while len(content) >= 4 and (end := 4 + int.from_bytes(content[:4], "big")) <= len(content):
        found.append(content[4:end])
        content = content[end:]
    if content or len(found) != count:
        raise SignatureFormatError("it ends in the middle, or goes on behind its end")
    return found
