#!/usr/bin/env bash
# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
# ci_wheel.sh [PYTHON]: builds the source distribution and the wheel with PYTHON (which needs `build`), installs the
# wheel into an empty environment, and tries it there, outside the checkout; then without the library, the saved folder;
# and in an environment without torch an exported model.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(command -v "${1:-$root/.venv/bin/python}")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HOME=$work/hf HF_HUB_OFFLINE=1
question="What colour is the square?"

# The wheel is made from the source distribution, so that no stale build folder gets into it.
"$python" -m build --outdir "$work/dist" "$root" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$python" - "$work"/dist/*.whl "$root" <<'PYTHON'
import sys, zipfile
from pathlib import Path

wheel, root = sys.argv[1:]
names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
stray = {name for name in names if not name.startswith("flashsloth/") or name.startswith("flashsloth/tests/")}
checkpoints = {f"flashsloth/{path.relative_to(root)}" for path in Path(root).glob("checkpoints/*/*")}
configs = {f"flashsloth/{path.relative_to(root)}" for path in Path(root).glob("train/configs/*.yaml")}
examples = {f"flashsloth/{path.relative_to(root)}" for path in Path(root).glob("examples/*.png")}
pages = {f"flashsloth/{path.relative_to(root)}" for path in Path(root).glob("examples/browser/*.*")}
missing = (checkpoints | configs | examples | pages | {"flashsloth/py.typed", "flashsloth/LICENSE"}) - names
print(f"{Path(wheel).name}: {len(names)} files, {len(checkpoints)} of them in embedded checkpoints")
if stray or missing or not checkpoints or not configs:
    sys.exit(f"error: the wheel has stray files {sorted(stray)} and lacks {sorted(missing)}")
PYTHON

"$python" -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --disable-pip-version-check install --quiet --constraint "$root/constraints.txt")
"${pip[@]}" torch
"${pip[@]}" "$work"/dist/*.whl
cp "$root/examples/scene.png" "$work/image.png"
cp "$root/tests/wheel_check.py" "$work/"
cd "$work"

echo "== The wheel"
venv/bin/python -c 'import flashsloth; print(flashsloth.__version__, flashsloth.__file__)'
venv/bin/flashsloth ask --image image.png "$question"
venv/bin/flashsloth ask --json --image image.png --image image.png "$question"
venv/bin/flashsloth ask --model no-such-folder "$question" && exit 1 || test $? = 2

cp -r "$(venv/bin/python -c 'from flashsloth.loading import SHIPPED_CHECKPOINT; print(SHIPPED_CHECKPOINT)')" model
rm -rf model/__pycache__  # of pip, which compiles all code that it installs
echo "== A model card"
venv/bin/flashsloth push model owner/name --license apache-2.0 --dry-run

echo "== The saved folder, without the library"
venv/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes flashsloth
venv/bin/python wheel_check.py model image.png "$question"
echo "The wheel and the saved folder work."

echo "== An exported model, without torch"
"${pip[@]}" "$(echo "$work"/dist/*.whl)[export]"
venv/bin/flashsloth export model exported --format onnx --weights float32 --weights int4 2>/dev/null
"$python" -m venv "$work/small"
pip=("$work/small/bin/python" -m pip --disable-pip-version-check install --quiet)
"${pip[@]}" --constraint "$root/constraints.txt" --requirement "$root/requirements-onnx.txt"
"${pip[@]}" --no-deps "$work"/dist/*.whl
small/bin/python -c 'import torch' 2>/dev/null && exit 1 || true
echo "Its environment has $(du --summarize --human-readable small | cut -f1)."
TIMEFORMAT="%R s from the command to the answer."
for dtype in float32 int4; do
    time small/bin/flashsloth ask --model exported --backend onnxruntime --dtype $dtype --image image.png "$question"
done
cat >pope.jsonl <<'QUESTIONS'
{"question_id": 0, "image": "image.png", "text": "Is there a star in the image?", "category": "random"}
QUESTIONS
small/bin/flashsloth eval --task pope --questions pope.jsonl --images . --model exported --backend onnxruntime \
    --output evaluated 2>/dev/null
small/bin/flashsloth demo exported --space page --static
small/bin/flashsloth push --space page owner/name --dry-run
small/bin/flashsloth ask --image image.png "$question" && exit 1 || test $? = 2
small/bin/flashsloth convert model converted && exit 1 || test $? = 2
echo "The exported model works without torch."
