#!/bin/bash
# Installs this archive's packages into a new virtual environment, without a network: bash install.sh FOLDER [PYTHON]
set -euo pipefail
folder=$(realpath -m "${1:?the folder of the new environment; bash install.sh ~/fanal works}")
python=${2:-python3}
cd "$(dirname "$0")"
sha256sum --check --quiet --strict SHA256SUMS
# shellcheck source=/dev/null
. ./target
here="$(uname -m) $("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
if [ "$here" != "$ARCHITECTURE $PYTHON_VERSION" ]; then
    echo "error: this archive is for $ARCHITECTURE and Python $PYTHON_VERSION, and here is $here; a node of that kind works, and" \
        "bash install.sh $1 python$PYTHON_VERSION" >&2
    exit 2
fi
if [ -e "$folder" ]; then
    echo "error: $folder must not be there yet; another folder works" >&2
    exit 2
fi
# An environment that is half there is not left. It cannot be made elsewhere and moved: its programs name their folder.
trap 'rm -rf "$folder"' ERR
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --require-hashes --find-links wheels \
    --requirement requirements.txt
if [ -d own ]; then
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps own/*.whl
fi
trap - ERR
echo "$folder: $(find wheels own -name '*.whl' 2>/dev/null | wc -l) packages; $folder/bin/python is its Python"
