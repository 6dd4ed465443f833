#!/bin/sh
# Make the environment ready: create it where it is missing, install what it lacks, and touch nothing when it lacks nothing.
#
#   VENV=.venv PYTHON=python3 PIP_FLAGS= sh site/environment.sh
#
# Exit code 0 means that every requirement of pyproject.toml is met. A browser, in which the tests read the web pages, is
# installed where apt can and may do it; without one those tests are skipped.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONPATH # it can make packages of elsewhere look installed
venv=${VENV:-.venv} python=${PYTHON:-python3} flags=${PIP_FLAGS:-}

fail() { printf 'error: %s\n' "$1" >&2; exit 1; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

browser() {
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" >/dev/null 2>&1 && return
    done
    without="no Chromium here, so the tests of the web pages are skipped; to have them: apt-get install chromium"
    command -v apt-get >/dev/null 2>&1 || { echo "Browser: $without"; return; }
    as_root=
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || { echo "Browser: $without"; return; }
        as_root="sudo -n"
    fi
    echo "Browser: installing Chromium, for the tests of the web pages ..."
    install="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -qq -y --no-install-recommends"
    # the lists of packages may be old, or not there at all
    { $install chromium fonts-dejavu-core || { $as_root apt-get update -qq && $install chromium fonts-dejavu-core; }; } >/dev/null 2>&1 ||
        echo "Browser: apt could not install it; $without"
}

if [ -x "$venv/bin/python" ]; then
    is_new_enough "$venv/bin/python" ||
        fail "the Python of $venv does not run or is older than 3.11: remove that folder, or choose another with VENV=."
    missing=$("$venv/bin/python" site/missing.py)
    [ -n "$missing" ] || { browser; echo "Environment: $venv has everything."; exit 0; }
else
    command -v "$python" >/dev/null 2>&1 ||
        fail "there is no $python: install Python 3.11 or newer (Debian, Ubuntu: apt-get install python3 python3-venv), or name one with PYTHON=."
    is_new_enough "$python" ||
        fail "$python is $("$python" -V 2>&1), and 3.11 or newer is needed: install one, and name it with PYTHON=, as in PYTHON=python3.12."
    missing=torch
fi

# Ask for room before anything is written: with the default PyTorch, which brings CUDA, an environment takes 6.8 GB.
gigabytes=1
if printf '%s\n' "$missing" | grep -Eq '^torch(vision)?([^a-z-]|$)'; then
    case "$flags" in */cpu*) gigabytes=3 ;; *) gigabytes=7 ;; esac
fi
folder=$venv
while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
free=$(df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1048576) }')
[ "$free" -ge "$gigabytes" ] ||
    fail "$venv needs about $gigabytes GB and its disk has $free GB free: make room, choose another disk with VENV=, or install PyTorch without CUDA with PIP_FLAGS= (see README.md)."

if [ ! -x "$venv/bin/python" ]; then
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python cannot create environments: install its venv module (Debian, Ubuntu: apt-get install python3-venv)."
    echo "Environment: creating $venv ..."
    "$python" -m venv "$venv"
elif ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    # uv and others make environments without pip; they may be of another Python than $python
    "$venv/bin/python" -m ensurepip --upgrade >/dev/null 2>&1 ||
        fail "$venv has no pip, and its Python cannot install it: remove that folder, or choose another with VENV=."
fi
echo "Environment: installing into $venv; PyTorch is large, this can take minutes ..."
# shellcheck disable=SC2086 # the flags are words
"$venv/bin/python" -m pip install $flags --editable ".[book,command,test]" ||
    fail "pip could not install the requirements; its message is above. The same command continues from here."
missing=$("$venv/bin/python" site/missing.py)
[ -z "$missing" ] || fail "$venv still lacks: $(echo $missing)"
browser
echo "Environment: $venv is ready."
