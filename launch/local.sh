#!/usr/bin/env bash
# Train with N processes on this machine, as on N hosts: launch/local.sh N CONFIG.yaml [key=value ...]
# On CPUs only; the processes share the machine's cores. The exit code is that of the first process
# that failed; 75: stopped by SIGTERM or Ctrl-C and saved, go on with --resume.
set -uo pipefail

if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: launch/local.sh N CONFIG.yaml [key=value ...] [--resume]" >&2
    exit 2
fi
if ! command -v wsicl > /dev/null; then
    echo "launch/local.sh: no wsicl on the PATH; activate its environment: . .venv/bin/activate" >&2
    exit 2
fi
count=$1
shift
port=$((20000 + RANDOM % 12000))  # below the system's ephemeral ports
export JAX_PLATFORMS=cpu

processes=()
# bash does not forward signals, and its background processes ignore Ctrl-C.
trap 'kill -TERM "${processes[@]}" 2> /dev/null' TERM INT
trap 'kill -KILL $(jobs -rp) 2> /dev/null' EXIT
for ((i = 0; i < count; i++)); do
    wsicl train "$@" --coordinator "127.0.0.1:$port" --num-processes "$count" --process-id "$i" &
    processes+=($!)
done

code=0
while [ $code -eq 0 ]; do
    wait -n -p ended
    status=$?
    if [ -n "${ended:-}" ]; then
        code=$status
    elif [ $status -eq 127 ]; then
        break  # none is left; otherwise `wait` was interrupted by a signal
    fi
done
# The others notice within 30 s and end, unless they hang.
for ((i = 0; i < 40; i++)); do
    [ -z "$(jobs -rp)" ] && break
    sleep 1
done
exit $code
