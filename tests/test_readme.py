# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The README's Python runs as it stands, from top to bottom, and its file tree names what is there."""

import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run(tmp_path):
    script = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert "red" in lines[0]
    assert lines[-2:] == ["torch.Size([1, 1, 9, 16])", "torch.Size([1, 4, 53, 1, 144])"]


def test_links_and_tree_exist():
    tree = README.split("## Files")[1].split("## Citation")[0]
    names = re.findall(r"^    ([\w/.]+)(?:, ([\w/.]+))?", tree, flags=re.MULTILINE)
    names = [name for pair in names for name in pair if name]
    assert len(names) > 10
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    missing = [name for name in names + links if not (ROOT / name).exists()]
    assert missing == []
