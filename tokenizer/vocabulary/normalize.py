"""Preparation of a text before it is cut into tokens: characters removed, then Unicode normalization.

It is done here, in front of SentencePiece, and not by rules inside its model. Such rules are replaced from left to right,
the longest first, and cannot sort a run of combining marks of any length, so they are never the whole of NFC; they cannot
hold NUL; and no normalizer of the `tokenizers` library follows them exactly (its Precompiled drops the acute of
"\ufb01\u0301"). The model has no rules of its own: give it prepared text, as `Tokenizer.encode_batch` and tokenizer.json do.

Normalization is that of Unicode 9.0 in every Python, since that is what the `tokenizers` library has (0.23), and since
ids must not depend on the Python that made them. Characters that came later are left as they are and nothing is composed
or sorted across them. For all others no version of Unicode may change the result: its stability policy says so.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

Normalization = Literal["identity", "nfc", "nfkc"]

# The ranges of characters that Unicode 9.0 had, cut down to those that NFC and NFKC ever change, move or join: combining
# marks, decomposable characters and their parts. Every other character stands alone, so a text may be cut around it.
_NORMALIZED_RANGES = """
3B-374 37A-37E 384-38A 38C 38E-3A1 3A5-4F9 587 591-5C7 5D0-5EA 5F2 610-61A 622-6ED 711-74A 7EB-7F3 816-82D 859-85B
8D4-95F 9A1-9A2 9AF 9BC-9BE 9C7 9CB-9CD 9D7 9DC-9DD 9DF A16-A1C A2B A32-A33 A36 A38 A3C A4D A59-A5B A5E ABC ACD
B21-B22 B3C-B3E B47-B48 B4B-B4D B56-B57 B5C-B5D B92-B94 BBE BC6-BC7 BCA-BCD BD7 C46-C48 C4D C55-C56 CBC-CC2
CC6-CC8 CCA-CCD CD5-CD6 D3E D46-D47 D4A-D4D D57 DCA DCF DD9-DDF E33-E3A E48-E4B EB3-EB9 EC8-ECB EDC-EDD F0C-F43
F4C-F69 F71-F93 F9C-FB9 FC6 1025-108D 10FC-11FF 135D-135F 1714 1734 17D2-17DD 18A9 1939-193B 1A17-1A18 1A60-1A7C
1A7F 1AB0-1ABD 1B05-1B44 1B6B-1B73 1BAA-1BF3 1C37 1CD0-1CF4 1CF8-1CF9 1D2C-1DF5 1DFB-1F15 1F18-1F1D 1F20-1F45
1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FC4 1FC6-1FD3 1FD6-1FDB 1FDD-1FEF 1FF2-1FF4 1FF6-1FFE
2000-205F 2070-2071 2074-208E 2090-209C 20A8 20D0-20F0 2100-2189 2190-232A 2460-2ADD 2C7C-2CF1 2D6F 2D7F 2DE0-2DFF
2E9F-2EF3 2F00-2FD5 3000-303A 3046-3094 3099-30FF 3131-318E 3192-319F 3200-321E 3220-32FE 3300-4D56 4E0D-9F9C
A66F-A6F1 A770 A7F8-A806 A8C4 A8E0-A8F1 A92B-A953 A9B3-A9C0 AAB0-AAC1 AAF6 AB5C-AB5F ABED AC00-D7A3 F900-FA6D
FA70-FAD9 FB00-FB06 FB13-FB17 FB1D-FB36 FB38-FB3C FB3E FB40-FB41 FB43-FB44 FB46-FBB1 FBD3-FD3D FD50-FD8F FD92-FDC7
FDF0-FDFC FE10-FE19 FE20-FE52 FE54-FE66 FE68-FE6B FE70-FE74 FE76-FEFC FF01-FFBE FFC2-FFC7 FFCA-FFCF FFD2-FFD7
FFDA-FFDC FFE0-FFE6 FFE8-FFEE 101FD 102E0 10376-1037A 10A0D-10A0F 10A38-10A3A 10A3F 10AE5-10AE6 11046 1107F-110BA
11100-11134 11173 111C0-111CA 11235-11236 112E9-112EA 1133C-1133E 11347 1134B-1134D 11357 11366-1136C 11370-11374
11442-11446 114B0-114C3 115AF 115B8-115C0 1163F 116B6-116B7 1172B 11C3F 16AF0-16AF4 16B30-16B36 1BC9E 1D157-1D1C0
1D242-1D244 1D400-1D454 1D456-1D49C 1D49E-1D49F 1D4A2 1D4A5-1D4A6 1D4A9-1D4AC 1D4AE-1D4B9 1D4BB 1D4BD-1D4C3
1D4C5-1D505 1D507-1D50A 1D50D-1D514 1D516-1D51C 1D51E-1D539 1D53B-1D53E 1D540-1D544 1D546 1D54A-1D550 1D552-1D6A5
1D6A8-1D7CB 1D7CE-1D7FF 1E000-1E006 1E008-1E018 1E01B-1E021 1E023-1E024 1E026-1E02A 1E8D0-1E8D6 1E944-1E94A
1EE00-1EE03 1EE05-1EE1F 1EE21-1EE22 1EE24 1EE27 1EE29-1EE32 1EE34-1EE37 1EE39 1EE3B 1EE42 1EE47 1EE49 1EE4B
1EE4D-1EE4F 1EE51-1EE52 1EE54 1EE57 1EE59 1EE5B 1EE5D 1EE5F 1EE61-1EE62 1EE64 1EE67-1EE6A 1EE6C-1EE72 1EE74-1EE77
1EE79-1EE7C 1EE7E 1EE80-1EE89 1EE8B-1EE9B 1EEA1-1EEA3 1EEA5-1EEA9 1EEAB-1EEBB 1F100-1F10A 1F110-1F12E 1F130-1F16B
1F190 1F200-1F202 1F210-1F23B 1F240-1F248 1F250-1F251 20122-2A600 2F800-2FA1D
"""


def _character_class(ranges: str) -> re.Pattern[str]:
    bounds = [[chr(int(bound, 16)) for bound in item.split("-")] for item in ranges.split()]
    return re.compile("[" + "".join("-".join(map(re.escape, pair)) for pair in bounds) + "]+")


_NORMALIZED_RUN = _character_class(_NORMALIZED_RANGES)


def normalize(text: str, normalization: Normalization) -> str:
    """Return the text in a normal form of Unicode 9.0; identity returns it unchanged."""
    if normalization == "identity":
        return text
    form = "NFC" if normalization == "nfc" else "NFKC"
    # Normal in this Python's Unicode means normal in 9.0, which changes fewer characters; most text leaves here.
    if unicodedata.is_normalized(form, text):
        return text
    return _NORMALIZED_RUN.sub(lambda run: unicodedata.normalize(form, run[0]), text)


def prepare_text(text: str, *, normalization: Normalization, remove_characters: Sequence[str]) -> str:
    """Return the text as SentencePiece is to see it: remove_characters (one character each) are gone, the rest is normalized.

    In this order, so that what a removed character stood between is joined. The result may be empty.
    """
    for character in remove_characters:
        text = text.replace(character, "")
    return normalize(text, normalization)
