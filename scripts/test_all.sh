#!/bin/sh
# Runs the tests on each Python from 3.10 to 3.15 that this machine has, on PATH or under pyenv, each in an
# environment of its own. A Python that is missing is named, and is no failure.
set -u
cd "$(dirname "$0")/.." || exit 1

# Prints the command that starts Python $1. Each candidate is run: pyenv puts names on PATH that only complain.
find_python() {
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1."*/bin/python; do
        if "$candidate" -c "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, ${1#3.}))" \
            >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

summary=""
failed=0
tested=0
for version in 3.10 3.11 3.12 3.13 3.14 3.15; do
    if ! python=$(find_python "$version"); then
        result="missing"
    else
        echo "== Python $version ($python)"
        tested=$((tested + 1))
        if "${MAKE:-make}" test PYTHON="$python" VENV=".venv-$version"; then
            result="passed"
        else
            result="FAILED"
            failed=$((failed + 1))
        fi
    fi
    summary="$summary
Python $version: $result"
done

echo "$summary"
if [ "$tested" -eq 0 ]; then
    echo "No Python from 3.10 to 3.15 was found." >&2
    exit 1
fi
[ "$failed" -eq 0 ]
