#!/bin/sh
# Writes .env with random secrets for docker-compose.yml, readable by you alone. Never overwrites one that is there.
# Usage: sh deploy/manifests/secrets.sh [FILE]
set -eu
umask 077
top=$(cd "$(dirname "$0")/../.." && pwd)
target=${1:-$top/.env}

if ! (set -C && : > "$target") 2> /dev/null; then # with -C, > fails where a file is
  echo "secrets.sh: $target is there already or cannot be written; to make new secrets, move it away first" >&2
  exit 1
fi

while IFS= read -r line; do
  case $line in
    '' | '#'*) printf '%s\n' "$line" ;;
    *=) printf '%s%s\n' "$line" "$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')" ;;
    *) printf '%s\n' "$line" ;;
  esac
done < "$top/.env.example" > "$target"
echo "secrets.sh: wrote $target; keep a copy of its REDACT_KEY in a safe place"
