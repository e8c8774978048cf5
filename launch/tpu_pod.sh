#!/usr/bin/env bash
# Train on all hosts of a Cloud TPU pod slice: launch/tpu_pod.sh NAME ZONE CONFIG.yaml [key=value ...]
# All hosts have the checkout and its .venv in WSICL_DIR (default: wsicl_jax in the home directory),
# and share the directory of the run. Repeat the command to continue after an interruption.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: launch/tpu_pod.sh NAME ZONE CONFIG.yaml [key=value ...]" >&2
    exit 2
fi
if ! command -v gcloud > /dev/null; then
    echo "launch/tpu_pod.sh: no gcloud on the PATH; install the Google Cloud CLI" >&2
    exit 2
fi
name=$1 zone=$2
shift 2

directory=${WSICL_DIR:-wsicl_jax}
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd $(printf %q "$directory") && exec .venv/bin/wsicl train$(printf ' %q' "$@") --resume"
