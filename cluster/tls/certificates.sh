#!/usr/bin/env bash
# Make certificates for a Dask cluster of one's own, and the file that tells Dask to use them.
#
#   cluster/tls/certificates.sh FOLDER [DAYS [WHERE]]
#   export DASK_CONFIG=FOLDER
#
# FOLDER gets the certificate of an authority (ca.pem), a certificate and key for scheduler, worker and client, and
# dask.yaml, which names them at WHERE: FOLDER by default, and for containers the place where it is mounted. Copy it to
# the same path on every machine. The authority's own key is thrown away, so that nobody can make more certificates
# that the cluster would trust.
set -euo pipefail
if [[ $# -lt 1 || $# -gt 3 || "${2:-365}" == *[!0-9]* ]]; then
  echo "usage: $0 FOLDER [DAYS [WHERE]]" >&2
  exit 2
fi
umask 077
folder=$1
days=${2:-365}
if [[ -e $folder ]]; then
  echo "$0: $folder exists: remove it first, or name another folder" >&2
  exit 1
fi
mkdir -p "$(dirname "$folder")"
parent=$(cd "$(dirname "$folder")" && pwd)
folder=$parent/$(basename "$folder")
begun=$(mktemp -d "$folder.XXXXXX") # a folder that is there is whole
trap 'rm -rf "$begun"' EXIT

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

new_key "$begun/ca-key.pem"
openssl req -x509 -new -sha256 -key "$begun/ca-key.pem" -days "$days" -subj "/CN=deepstreaks cluster" \
  -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign" -out "$begun/ca.pem"
# A worker listens and calls, and so do the others: each certificate is for both ends.
printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
  "extendedKeyUsage=serverAuth,clientAuth" > "$begun/extensions"
for role in scheduler worker client; do
  new_key "$begun/$role-key.pem"
  openssl req -new -sha256 -key "$begun/$role-key.pem" -subj "/CN=deepstreaks $role" |
    openssl x509 -req -sha256 -days "$days" -CA "$begun/ca.pem" -CAkey "$begun/ca-key.pem" -CAcreateserial \
      -extfile "$begun/extensions" -out "$begun/$role.pem" 2> /dev/null
done
rm -f "$begun/ca-key.pem" "$begun/ca.srl" "$begun/extensions"
where=${3:-$folder}
quoted=${where//\'/\'\'}
cat > "$begun/dask.yaml" << YAML
distributed:
  comm:
    default-scheme: tls
    require-encryption: true
    tls:
      ca-file: '$quoted/ca.pem'
      scheduler: {cert: '$quoted/scheduler.pem', key: '$quoted/scheduler-key.pem'}
      worker: {cert: '$quoted/worker.pem', key: '$quoted/worker-key.pem'}
      client: {cert: '$quoted/client.pem', key: '$quoted/client-key.pem'}
YAML
mv -T "$begun" "$folder"
trap - EXIT
echo "export DASK_CONFIG=$folder"
