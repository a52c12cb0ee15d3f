#!/bin/bash
# One node of a job: torchrun, which starts the ranks and ends with them. srun runs this once per node; job.sbatch exports
# what it reads.
set -uo pipefail
umask go-w # job.sbatch has it, and not every srun passes it on

# The announcement of the job's end is for the ranks. torchrun would die of it; they catch it from their first line on.
trap '' USR1
# Slurm tells the ranks themselves; this script stays until they are gone.
trap : TERM

if [ -n "${FANAL_NODE_LOCAL:-}" ]; then
    mine="$FANAL_NODE_LOCAL-$SLURM_NODEID" # its own, also where two nodes are one machine
    trap 'rm -rf "$mine"' EXIT
    mkdir -p "$mine" || exit 70
    tar -xf "$FANAL_PACKED" -C "$mine" || exit 70
    export PYTHONPATH="$mine/code:$mine/packages"
fi

# The output of every rank is kept; the job's own output shows that of local rank 0 of each node.
logs="$FANAL_ATTEMPT/logs/${SLURMD_NODENAME:-node$SLURM_NODEID}"
mkdir -p "$logs" || exit 70

binding=()
[ -z "${FANAL_NUMA_BINDING:-}" ] || binding=(--numa-binding "$FANAL_NUMA_BINDING")

# No restarts by torchrun: a new start is the job's to decide, which counts them.
"$PYTHON" -m torch.distributed.run \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$FANAL_RANKS_PER_NODE" --max-restarts 0 \
    --rdzv-backend c10d --rdzv-endpoint "$FANAL_MEET_AT" --rdzv-id "$(basename "$FANAL_ATTEMPT")" \
    --log-dir "$logs" --tee 3 --local-ranks-filter 0 "${binding[@]}" \
    -m pretrain train "$FANAL_CONFIG"
