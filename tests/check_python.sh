#!/bin/sh
# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
# check_python.sh PYTHON: one clear line and exit status 2 if this interpreter cannot hold the project.
python="$1"

fail() {
    echo "error: $1" >&2
    exit 2
}

command -v "$python" >/dev/null 2>&1 || fail "no Python called '$python'; name one, as in: make quickstart PYTHON=python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$("$python" --version 2>&1) is too old: transformers 5.23 needs Python 3.11 or newer; make quickstart PYTHON=python3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "'$python' cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"
