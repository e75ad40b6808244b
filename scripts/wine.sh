#!/bin/sh
# Runs a program for Windows, under wine.
#
#   sh scripts/wine.sh FOLDER PROGRAM [ARGUMENT]…
#
# FOLDER has `prefix`, the files that wine keeps.
set -eu

folder=$(cd "$1" && pwd)
shift

# Debian's `wine` is a script that also looks for a wine of 32 bits, and complains if there is none.
for wine in /usr/lib/wine/wine64 wine64 wine; do
    command -v "$wine" >/dev/null && break
done
export WINEDEBUG=-all WINEPREFIX="$folder/prefix"
trap 'wineserver -k 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

# Python needs valid standard streams: through pipes, wine hands them on.
{
    status=0
    "$wine" "$@" </dev/null 2>&1 || status=$?
    echo "$status" >"$folder/status"
} | cat
exit "$(cat "$folder/status")"
