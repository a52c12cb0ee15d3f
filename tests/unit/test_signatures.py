"""Signatures: OpenSSH checks ours, we check OpenSSH's, and every changed bit is found."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fanal.errors import UserError
from fanal.signatures import (
    SignatureError,
    check_signature,
    read_private_key,
    read_public_keys,
    sign_file,
    signature_path,
)
from fanal.ssh_signature import Signature, SignatureFormatError, parse_signature, signature_text
from tests.runs.flips import flipped
from tests.runs.ssh_keys import make_key, public_key, ssh_verifies


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("keys") / "key")


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("other") / "key")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "certificate.json"
    path.write_text('{"step": 8, "loss": 2.5}\n')
    return path


def sign_with_ssh(file: Path, key: Path, *, namespace: str = "fanal", **variables: str) -> None:
    words = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(key), str(file)]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, **variables}, stdin=subprocess.DEVNULL)


def advice(error: pytest.ExceptionInfo[UserError]) -> str:
    found = re.search(r"`(.*?)`", str(error.value))
    assert found
    return found[1]


def test_ssh_keygen_checks_ours_and_finds_a_change(file: Path, key: Path, other_key: Path) -> None:
    signature = sign_file(file, read_private_key(key))
    assert signature == file.with_name("certificate.json.sig")
    assert ssh_verifies(file, signature, key) and not ssh_verifies(file, signature, other_key)
    file.write_text(file.read_text().replace("8", "9"))
    assert not ssh_verifies(file, signature, key)


def test_ours_checks_that_of_ssh_keygen_which_is_the_same_to_the_byte(file: Path, key: Path) -> None:
    sign_with_ssh(file, key)
    assert check_signature(file, read_public_keys(public_key(key))) == read_private_key(key).public
    theirs = signature_path(file).read_bytes()
    signature_path(file).unlink()
    assert sign_file(file, read_private_key(key)).read_bytes() == theirs
    printed = subprocess.run(["ssh-keygen", "-l", "-f", public_key(key)], capture_output=True, text=True, check=True)
    assert printed.stdout.split()[1] == read_private_key(key).public.fingerprint


def test_a_flipped_bit_anywhere_is_found(file: Path, key: Path) -> None:
    keys = read_public_keys(public_key(key))
    signature = sign_file(file, read_private_key(key))
    for path in (file, signature):
        for place in range(path.stat().st_size):
            for bit in range(8):
                with flipped(path, place, bit), pytest.raises(SignatureError):
                    check_signature(file, keys)
    assert check_signature(file, keys) in keys


def test_a_text_cut_short_or_longer_is_no_signature_and_lines_of_another_length_are(file: Path, key: Path) -> None:
    signature = sign_file(file, read_private_key(key))
    text = signature.read_bytes()
    for wrong in (
        b"",
        text[:-1],
        text[1:],
        text + b"\n",
        text + text,
        text.replace(b"\n", b"\r\n"),
        text[:100],
        b"\xff",
    ):
        with pytest.raises(SignatureFormatError):
            parse_signature(wrong)
    first, *lines, last, end = text.split(b"\n")
    digits = b"".join(lines)
    other = b"\n".join((first, digits[:76], digits[76:], last, end))
    assert parse_signature(other) == parse_signature(text)
    assert signature_text(parse_signature(text)).encode() == text


def test_another_key_another_purpose_and_no_signature_are_refused_by_name(
    file: Path, key: Path, other_key: Path
) -> None:
    keys = read_public_keys(public_key(key))
    with pytest.raises(SignatureError, match=r"has no signature: .*certificate.json.sig does not exist"):
        check_signature(file, keys)
    sign_with_ssh(file, other_key)
    (expected,), (found,) = keys, read_public_keys(public_key(other_key))
    with pytest.raises(
        SignatureError, match=re.escape(f"by the key {found.fingerprint}, expected {expected.fingerprint}")
    ):
        check_signature(file, keys)
    signature_path(file).unlink()
    sign_with_ssh(file, key, namespace="git")
    with pytest.raises(SignatureError, match=r"was made for 'git', expected 'fanal'"):
        check_signature(file, keys)


def test_a_key_that_only_names_itself_is_not_believed(file: Path, key: Path, other_key: Path) -> None:
    """A forger writes the expected key into a signature of their own."""
    forger = read_private_key(other_key)
    signature = sign_file(file, forger)
    found = parse_signature(signature.read_bytes())
    forged = Signature(
        key=read_private_key(key).public, namespace=found.namespace, hash_name=found.hash_name, raw=found.raw
    )
    signature.write_text(signature_text(forged))
    with pytest.raises(SignatureError, match=r"is not the signature of what .* holds now"):
        check_signature(file, read_public_keys(public_key(key)))


def test_a_file_of_several_keys_accepts_each_and_passes_over_other_kinds(
    file: Path, key: Path, other_key: Path, tmp_path: Path
) -> None:
    ecdsa = make_key(tmp_path / "ecdsa", kind="ecdsa")
    lines = ["# of the group", *(public_key(one).read_text().strip() for one in (ecdsa, other_key, key)), ""]
    (tmp_path / "keys").write_text("\n".join(lines))
    sign_file(file, read_private_key(key))
    assert check_signature(file, read_public_keys(tmp_path / "keys")) == read_private_key(key).public
    for wrong in (f"someone {lines[3]}", f'restrict,command="x" {lines[3]}', "ssh-ed25519 AAAA", lines[3][:40], "{}"):
        (tmp_path / "keys").write_text(f"{lines[2]}\n{wrong}\n")
        with pytest.raises(
            UserError, match=r"--public-key \(.*keys\) must hold public keys of OpenSSH, and line 2 is none"
        ):
            read_public_keys(tmp_path / "keys")
    with pytest.raises(UserError, match=r"must hold a public key of Ed25519"):
        read_public_keys(public_key(ecdsa))


def test_a_signature_by_ecdsa_is_not_one_of_these(file: Path, key: Path, tmp_path: Path) -> None:
    sign_with_ssh(file, make_key(tmp_path / "ecdsa", kind="ecdsa"))
    with pytest.raises(SignatureError, match=r"of another kind than ssh-ed25519"):
        check_signature(file, read_public_keys(public_key(key)))


def test_a_key_with_a_passphrase_is_used_by_ssh_keygen_as_the_message_says(file: Path, tmp_path: Path) -> None:
    locked = make_key(tmp_path / "locked", passphrase="secret words")
    with pytest.raises(UserError, match=r"must be a key without a passphrase") as refusal:
        read_private_key(locked)
    answers = tmp_path / "answers"
    answers.write_text("#!/bin/sh\necho secret words\n")
    answers.chmod(0o700)
    words = [str(file) if word == "FILE" else word for word in shlex.split(advice(refusal))]
    variables = {"SSH_ASKPASS": str(answers), "SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run(words, check=True, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, capture_output=True)
    assert check_signature(file, read_public_keys(public_key(locked)))


def test_a_key_that_others_may_read_is_refused_until_they_may_not(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    key.chmod(0o640)
    with pytest.raises(UserError, match=r"must be readable by you alone, and its mode is 640") as refusal:
        read_private_key(key)
    subprocess.run(shlex.split(advice(refusal)), check=True)
    assert read_private_key(key).public in read_public_keys(public_key(key))


def test_what_is_no_key_of_ed25519_is_refused_with_a_command_that_makes_one(tmp_path: Path) -> None:
    ecdsa = make_key(tmp_path / "ecdsa", kind="ecdsa")
    with pytest.raises(UserError, match=r"must be a key of Ed25519, and is one of another kind"):
        read_private_key(ecdsa)
    with pytest.raises(UserError, match=r"must be a private key of OpenSSH, and is not one") as refusal:
        read_private_key(public_key(ecdsa))
    subprocess.run(shlex.split(advice(refusal)), check=True, cwd=tmp_path, capture_output=True)
    assert read_private_key(tmp_path / "my-key").public in read_public_keys(tmp_path / "my-key.pub")
    with pytest.raises(UserError, match=r"nothing cannot be read: No such file"):
        read_private_key(tmp_path / "nothing")


def test_somebody_s_signature_is_not_overwritten(file: Path, key: Path, other_key: Path) -> None:
    sign_file(file, read_private_key(other_key))
    with pytest.raises(UserError, match=r"must not exist yet, since it may be somebody's signature") as refusal:
        sign_file(file, read_private_key(key))
    subprocess.run(shlex.split(advice(refusal)), check=True)
    sign_file(file, read_private_key(key))
    assert check_signature(file, read_public_keys(public_key(key)))


def test_a_signature_has_the_rights_of_its_file(file: Path, key: Path) -> None:
    file.chmod(0o600)
    assert sign_file(file, read_private_key(key)).stat().st_mode & 0o777 == 0o600


def test_without_the_library_the_message_says_what_installs_it(
    file: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_with_ssh(file, key)
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for use in (lambda: read_private_key(key), lambda: check_signature(file, read_public_keys(public_key(key)))):
        with pytest.raises(UserError, match=r"pip install 'fanal\[sign\]' installs it"):
            use()
