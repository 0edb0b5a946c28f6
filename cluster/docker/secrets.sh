#!/usr/bin/env bash
# Make what compose.yaml wants to be secret, in the folder 'secrets' beside it: passwords of the database, certificates
# for Dask, a certificate of its own for the site, and a file for the depot's password, which is to be filled in.
#
#   sudo cluster/docker/secrets.sh NAME-OF-THE-SITE
set -euo pipefail
if [[ $# -ne 1 || $1 == *[!A-Za-z0-9.-]* ]]; then
  echo "usage: $0 NAME-OF-THE-SITE" >&2
  exit 2
fi
umask 077
site=$1
here=$(cd "$(dirname "$0")" && pwd)
folder=${DEEPSTREAKS_SECRETS:-$here/secrets}
if [[ -e $folder ]]; then
  echo "$0: $folder exists: remove it first, and what was made with it" >&2
  exit 1
fi
mkdir -p "$folder"
password=$(openssl rand -hex 24)
printf '%s' "$password" > "$folder/postgres_password"
printf 'database:5432:deepstreaks:deepstreaks:%s\n' "$password" > "$folder/pgpass"
printf '# machine HOST login USER password PASSWORD\n' > "$folder/depot"
"$here/../tls/certificates.sh" "$folder/tls" 365 /etc/deepstreaks-tls > /dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj "/CN=$site" \
  -addext "subjectAltName=DNS:$site" -keyout "$folder/site_key" -out "$folder/site_certificate" 2> /dev/null
# The users of the containers, who alone are to read them; the folder itself is root's.
if [[ $(id -u) -eq 0 ]]; then
  chown -R 10001:10001 "$folder/tls" "$folder/pgpass" "$folder/depot"
  chown 999:999 "$folder/postgres_password"
  chown 101:101 "$folder/site_certificate" "$folder/site_key"
else
  echo "$0: not run by root: give the files to the users of the containers, as README.md says" >&2
fi
echo "fill in $folder/depot, and put the site's own certificate in place of $folder/site_certificate and site_key"
