#!/usr/bin/env bash
# Train with N processes on this machine, as on N hosts: launch/local.sh N CONFIG.yaml [key=value ...]
# On CPUs only; the processes share the machine's cores.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: launch/local.sh N CONFIG.yaml [key=value ...] [--resume]" >&2
    exit 2
fi
if ! command -v wsicl > /dev/null; then
    echo "launch/local.sh: no wsicl on the PATH; activate its environment: . .venv/bin/activate" >&2
    exit 2
fi
count=$1
shift
port=$((20000 + RANDOM % 20000))
export JAX_PLATFORMS=cpu

processes=()
trap 'kill "${processes[@]}" 2>/dev/null || true' EXIT
for ((i = 0; i < count; i++)); do
    wsicl train "$@" --coordinator "127.0.0.1:$port" --processes "$count" --process "$i" &
    processes+=($!)
done
# The first that fails ends the others, which would wait for it.
for _ in "${processes[@]}"; do
    wait -n
done
