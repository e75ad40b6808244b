#!/bin/sh
# Runs the tests with the CPython for Windows that scripts/windows_python.sh made, under wine.
#
#   sh scripts/test_windows.sh FOLDER [argument of pytest]…
set -eu
cd "$(dirname "$0")/.."

folder=$1
shift
exec sh scripts/wine.sh "$folder" "$folder/python/python.exe" -m pytest "$@"
