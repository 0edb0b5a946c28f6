#!/usr/bin/env bash
# Score an archive on several machines that SSH reaches: a scheduler and the campaign here, workers there.
#
#   export DASK_CONFIG=FOLDER      # certificates, as cluster/tls/certificates.sh makes them; copied by this script
#   cluster/ssh/campaign.sh HOSTS ARCHIVE [options of 'deepstreaks score']
#
# HOSTS is a file with a name or user@name a line. The archive's path or URL must be the same everywhere, and so must
# be the package: DEEPSTREAKS_BIN names its folder of commands there, the one that it has here by default.
# DEEPSTREAKS_HOST is this machine's name or address for the others, and DEEPSTREAKS_SSH the command to reach them.
set -euo pipefail
if [[ $# -lt 2 || ! -r ${1:-} ]]; then
  echo "usage: $0 HOSTS ARCHIVE [options of 'deepstreaks score']" >&2
  exit 2
fi
: "${DASK_CONFIG:?make certificates with cluster/tls/certificates.sh and name their folder}"
export DASK_CONFIG TF_CPP_MIN_LOG_LEVEL=3
hosts_file=$1
shift
bin=${DEEPSTREAKS_BIN:-$(dirname "$(command -v dask)")}
here=${DEEPSTREAKS_HOST:-$(hostname -f)}
read -ra ssh <<< "${DEEPSTREAKS_SSH:-ssh -o BatchMode=yes -o ServerAliveInterval=15}"
mapfile -t hosts < <(grep -vE '^[[:space:]]*(#|$)' "$hosts_file")

work=$(mktemp -d)
trap 'kill $(jobs -p) 2> /dev/null || true; rm -rf "$work"' EXIT
trap 'exit 143' TERM INT

dask scheduler --host "tls://$here" --port 0 --dashboard-address 127.0.0.1:0 --scheduler-file "$work/scheduler.json" &
scheduler=$!
while [[ ! -s $work/scheduler.json ]]; do
  kill -0 "$scheduler" || exit 1
  sleep 0.2
done
address=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$work/scheduler.json")

# Runs on each machine, with what a worker needs of the certificates as a tar file on its standard input. A worker
# that loses the scheduler ends, and is started again; one that does not find it for two minutes fails, and that is
# the end. The files go with it.
# shellcheck disable=SC2016
worker='
umask 077
work=$(mktemp -d) || exit
trap "rm -rf \"$work\"" EXIT
tar -xC "$work" || exit
export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True TF_CPP_MIN_LOG_LEVEL=3 PATH="$2:$PATH"
common=(--nthreads 2 --local-directory "$work" --death-timeout 120
  --tls-ca-file "$work/ca.pem" --tls-cert "$work/worker.pem" --tls-key "$work/worker-key.pem")
if compgen -G "/dev/nvidia[0-9]*" > /dev/null; then
  command=(dask cuda worker "$1" "${common[@]}" --dashboard-address 127.0.0.1:0)
else
  workers=$((($(nproc) + 1) / 2))
  export TF_NUM_INTRAOP_THREADS=2 TF_NUM_INTEROP_THREADS=2
  command=(dask worker "$1" "${common[@]}" --nworkers "$workers" --no-dashboard)
fi
while "${command[@]}"; do sleep 1; done
'
for host in "${hosts[@]}"; do
  tar -cC "$DASK_CONFIG" ca.pem worker.pem worker-key.pem |
    "${ssh[@]}" "$host" "bash -c $(printf %q "$worker") worker $(printf '%q %q' "$address" "$bin")" &
done

deepstreaks score "$@" --scheduler "$address" &
wait $!
