#!/bin/bash
# One node of a job: starts its ranks, and ends with them. srun runs this once per node; job.sbatch exports what it reads.
set -uo pipefail
umask go-w # job.sbatch has it, and not every srun passes it on

# The announcement of the job's end is for the ranks, which catch it from their first line on.
trap '' USR1
# Slurm tells the ranks themselves; this script stays until they are gone.
trap : TERM

if [ -n "${FANAL_NODE_LOCAL:-}" ]; then
    # Who may rename a folder of ours there puts one of theirs in its place.
    above=${FANAL_NODE_LOCAL%/*}
    kept=$(find "$above/." -maxdepth 0 "(" -user "$(id -u)" -o -user 0 ")" "(" ! -perm /022 -o -perm -1000 ")")
    if [ -z "$kept" ]; then
        echo "error: $above must keep its names: yours or root's, and with the sticky bit where others write;" \
            "--no-node-local works" >&2
        exit 2
    fi
    # What a start that was killed has left, where it is ours. A job on two nodes that are one machine has two such folders.
    find "$above" -maxdepth 1 -user "$(id -u)" -name "${FANAL_NODE_LOCAL##*/}-$SLURM_NODEID.*" -exec rm -rf {} +
    # New, and ours alone: a folder of a name that others know before may be a stranger's, and so would be the code in it.
    mine=$(mktemp -d "$FANAL_NODE_LOCAL-$SLURM_NODEID.XXXXXXXX") || exit 70
    trap 'rm -rf "$mine"' EXIT
    tar -xf "$FANAL_PACKED" -C "$mine" || exit 70
    # A Python with its library and packages there, and no folder of the shared disk on its path.
    unset PYTHONNOUSERSITE
    export PYTHON="$mine/python/bin/python" PYTHONHOME="$mine/python" PYTHONUSERBASE="$mine/python" PYTHONPATH="$mine/code"
fi

# The output of every rank is kept; the job's own output shows that of local rank 0 of each node.
export FANAL_LOGS="$FANAL_ATTEMPT/logs/${SLURMD_NODENAME:-node$SLURM_NODEID}"

"${FANAL_IMAGE_PYTHON:-$PYTHON}" -m launch.chain.ranks
