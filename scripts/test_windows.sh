#!/bin/sh
# Runs the tests with the CPython for Windows that scripts/windows_python.sh made, under wine.
#
#   sh scripts/test_windows.sh FOLDER [argument of pytest]…
set -eu
cd "$(dirname "$0")/.."

folder=$(cd "$1" && pwd)
shift

wine=$(command -v /usr/lib/wine/wine64 wine64 wine | head -n 1)
export WINEDEBUG=-all WINEPREFIX="$folder/prefix"
trap 'WINEPREFIX="$folder/prefix" wineserver -k 2>/dev/null || true' EXIT

# Python needs valid standard streams: through pipes, wine hands them on.
status=$folder/status
{ "$wine" "$folder/python/python.exe" -m pytest "$@" </dev/null 2>&1; echo $? >"$status"; } | cat
exit "$(cat "$status")"
