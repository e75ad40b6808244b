#!/bin/sh
# Runs the tests with the CPython for Windows that scripts/windows_python.sh made, under wine.
#
#   sh scripts/test_windows.sh FOLDER [argument of pytest]…
set -eu
cd "$(dirname "$0")/.."

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
    "$wine" "$folder/python/python.exe" -m pytest "$@" </dev/null 2>&1 || status=$?
    echo "$status" >"$folder/status"
} | cat
exit "$(cat "$folder/status")"
