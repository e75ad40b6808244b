#!/bin/sh
# Makes a CPython for Windows that runs here, under wine, and installs what the tests need.
#
#   sh scripts/windows_python.sh PYTHON FOLDER
#
# PYTHON is a Python 3.10 to 3.12 of this system: the one for Windows will be of the same version, and gets
# a copy of the pure part of its standard library. FOLDER will have `python/python.exe`, and what
# wine keeps. All that is compiled comes from PyPI: panda3d's wheel has the interpreter that
# python.org builds, with its extension modules, OpenSSL and SQLite.
set -eu

python=$1
folder=$(mkdir -p "$2" && cd "$2" && pwd)
project=$(cd "$(dirname "$0")/.." && pwd)
patch=$("$python" -c 'import platform; print(platform.python_version())')
dotted=${patch%.*}
version=$(printf %s "$dotted" | tr -d .)
compile=x86_64-w64-mingw32-gcc
windows=$folder/python
site=$windows/Lib/site-packages
work=$folder/work

case $dotted in
    3.10 | 3.11 | 3.12) ;;
    *)
        echo "This needs a Python 3.10, 3.11 or 3.12; $python is $patch, for which no numpy runs under wine 8." >&2
        echo "Name another one: make test-windows PYTHON=python3.11" >&2
        exit 1
        ;;
esac

needed=  # packages of Debian and its descendants
command -v wine >/dev/null || needed="wine wine64"
"$python" -c 'import ensurepip, venv' 2>/dev/null || needed="$needed python3-venv"
command -v "$compile" >/dev/null || needed="$needed gcc-mingw-w64-x86-64"
if [ -n "$needed" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "This needs: apt-get install --no-install-recommends $needed" >&2
        exit 1
    fi
    echo "windows_python: installing $needed"
    # shellcheck disable=SC2086
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends $needed; } >/dev/null
fi

rm -rf "$folder"
mkdir -p "$windows/DLLs" "$work"
"$python" -m venv "$work/host"  # for its pip: not every Python has one

fetch() {  # pip for Windows; it evaluates the conditions in a package's metadata for this system
    "$work/host/bin/python" -m pip --quiet --disable-pip-version-check "$@" --only-binary :all: --platform win_amd64 \
        --python-version "$dotted" --implementation cp --abi "cp$version" --abi abi3 --abi none
}

echo "windows_python: the interpreter"
fetch download --no-deps --dest "$work" panda3d
"$python" -m zipfile -e "$work"/panda3d-*.whl "$work/panda3d"
cp "$work"/panda3d/deploy_libs/*.dll "$windows/"
cp "$work"/panda3d/deploy_libs/*.pyd "$windows/DLLs/"
rm -f "$windows"/DLLs/_wmi*.pyd "$windows"/DLLs/*t-win_amd64.pyd  # wine 8 can't serve _wmi; `platform` does without
cp -r "$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/." "$windows/Lib"
rm -rf "$site" "$windows/Lib/dist-packages" "$windows"/Lib/lib-dynload "$windows"/Lib/config-* "$windows/Lib/test"
mkdir -p "$site"
# The interpreter calls this on the class, for which a library before 3.11.8 lacks the decorator.
sed -i -e '/^    @classmethod$/{n;b' -e '}' -e 's/^    def invalidate_caches(cls)/    @classmethod\n&/' \
    "$windows/Lib/importlib/metadata/__init__.py"

cat >"$work/main.c" <<C
#include <windows.h>
int wmain(int argc, wchar_t **argv)
{
    HMODULE library = LoadLibraryW(L"python$version.dll");
    int (*run)(int, wchar_t **) = library ? (void *)GetProcAddress(library, "Py_Main") : NULL;
    return run ? run(argc, argv) : 103;
}
C
"$compile" -municode -O2 -o "$windows/python.exe" "$work/main.c"

# The stable ABI's python3.dll, which hands all on to the real one.
{
    echo "LIBRARY python3"
    echo "EXPORTS"
    x86_64-w64-mingw32-objdump -p "$windows/python$version.dll" | awk -v library="python$version" '
        /Name Pointer\] Table/ { inside = 1; next }
        inside && /\[ *[0-9]+\]/ { print "  " $NF "=" library "." $NF }
        inside && /^$/ { exit }'
} >"$work/python3.def"
: >"$work/empty.c"
"$compile" -shared -nostdlib -Wl,--entry=0 -o "$windows/python3.dll" "$work/empty.c" "$work/python3.def"

# Wine 8 lacks this function, which all that is written in Rust asks for random bytes.
cat >"$work/random.c" <<C
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T count) { return RtlGenRandom(bytes, count); }
C
"$compile" -shared -O2 -o "$windows/bcryptprimitives.dll" "$work/random.c" -ladvapi32

echo "windows_python: what the tests need"
fetch install --target "$site" --requirement "$project/scripts/windows_requirements.txt" \
    $("$python" - "$project/setup.cfg" <<'P'
import configparser, sys

settings = configparser.ConfigParser()
settings.read(sys.argv[1])
extras = settings["options.extras_require"]
for group in (settings["options"]["install_requires"], *map(extras.get, ("collector", "answers", "schema", "zstd"))):
    for line in group.split("\n"):
        if line and 'sys_platform != "win32"' not in line:
            print(line.split(";")[0].replace(" ", ""))
P
)

# The package itself: its metadata, and where it is. Wine's drive Z: is this system's root.
(cd "$project" && "$work/host/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$work" .)
"$python" -m zipfile -e "$work"/redvsblue_telemetry-*.whl "$work/ours"
cp -r "$work"/ours/*.dist-info "$site/"
printf 'Z:%s\n' "$(printf %s "$project" | tr / '\\')" >"$site/redvsblue_telemetry.pth"

# The interpreter is of one patch release, and the library of another.
compiled=$("$python" - "$windows/python$version.dll" "$dotted" <<'P'
import re, sys

with open(sys.argv[1], "rb") as dll:
    print(re.search(rb"\b%s\.\d+\b" % re.escape(sys.argv[2].encode()), dll.read())[0].decode())
P
)
echo "windows_python: CPython $compiled for Windows, with the library of $patch"
if ! (cd "$project" && "$python" scripts/test_windows.py "$folder" tests/test_user_dir.py >"$work/log" 2>&1); then
    cat "$work/log" >&2
    echo "This Python for Windows does not work, as shown above. The interpreter is $compiled, and the library" >&2
    echo "that of $patch: if they don't fit, use a Python $dotted that is closer." >&2
    exit 1
fi
rm -rf "$work"
