"""Keys of OpenSSH, made by its own program."""

import subprocess
from pathlib import Path


def make_key(path: Path, *, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new private key; its public key is beside it, with .pub."""
    words = ["ssh-keygen", "-q", "-t", kind, "-a", "1", "-N", passphrase, "-C", "someone@somewhere", "-f", str(path)]
    subprocess.run(words, check=True, capture_output=True)
    return path


def public_key(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def ssh_verifies(file: Path, signature: Path, key: Path) -> bool:
    """Whether ssh-keygen finds a signature to be one of this key over this file."""
    signers = key.with_name(f"{key.name}.allowed")
    signers.write_text(f"someone {public_key(key).read_text()}")
    words = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "someone", "-n", "fanal", "-s", signature]
    with file.open("rb") as stream:
        return subprocess.run(words, stdin=stream, capture_output=True).returncode == 0
