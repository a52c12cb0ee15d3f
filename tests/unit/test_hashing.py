"""Hashes with the names of their algorithms, against the values that their authors publish."""

import pytest

from fanal.hashing import FAST, STANDARD, algorithm_of, digits_of, hash_text, is_hash_text, new_hash

OF_NOTHING = {  # BLAKE3's test_vectors.json and FIPS 180-4's examples
    FAST: "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    STANDARD: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
}
OF_1023_BYTES = "blake3:10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11"


@pytest.mark.parametrize("algorithm", OF_NOTHING)
def test_a_hash_says_its_algorithm(algorithm: str) -> None:
    text = hash_text(algorithm, new_hash(algorithm))
    assert text == OF_NOTHING[algorithm] and is_hash_text(text)
    assert f"{algorithm_of(text)}:{digits_of(text)}" == text


def test_pieces_are_one_stream() -> None:
    content = bytes(number % 251 for number in range(1023))
    digest = new_hash(FAST)
    for at in range(0, 1023, 100):
        digest.update(memoryview(content)[at : at + 100])
    assert hash_text(FAST, digest) == OF_1023_BYTES


@pytest.mark.parametrize(
    "text",
    ["", "ab" * 32, "md5:" + "ab" * 32, "blake3:" + "AB" * 32, "blake3:" + "ab" * 31, "sha256:" + "ab" * 32 + "\n"],
)
def test_what_is_no_named_hash_is_seen(text: str) -> None:
    assert not is_hash_text(text)
