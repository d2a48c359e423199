# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
A saved folder works by itself: in a process that cannot import the package, through every Auto class, from a local
folder and from a Hub cache, and again after a second save.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from samples import make_image, make_model, prepare, user
from without_package import WITHOUT_PACKAGE, run


# What a stranger's process does with a folder (or a Hub name). The finder stands for a machine without the package.
SCRIPT = (
    WITHOUT_PACKAGE
    + """
import json, os, sys
import torch
from PIL import Image
from transformers import (AutoConfig, AutoImageProcessor, AutoModel, AutoModelForCausalLM,
    AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline)

source, work = sys.argv[1:3]
out = {}

def load(source):
    remote = {"trust_remote_code": True}
    config = AutoConfig.from_pretrained(source, **remote)
    processor = AutoProcessor.from_pretrained(source, **remote)
    tokenizer = AutoTokenizer.from_pretrained(source, **remote)
    image_processor = AutoImageProcessor.from_pretrained(source, **remote)
    backbone = AutoModel.from_pretrained(source, **remote)
    causal = AutoModelForCausalLM.from_pretrained(source, **remote)
    model = AutoModelForImageTextToText.from_pretrained(source, **remote)
    image = Image.open(os.path.join(work, "image.png"))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What is this?"}]
    chat = [{"role": "user", "content": content}]
    inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        assert torch.equal(causal(**inputs).logits, logits)
        hidden = backbone(**inputs).last_hidden_state
        torch.testing.assert_close(model.lm_head(hidden), logits)
    assert config.model_type == "flashsloth" and len(tokenizer) == len(processor.tokenizer)
    assert torch.equal(image_processor(image, return_tensors="pt")["pixel_values"], inputs["pixel_values"])
    ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1]:]
    return model, processor, logits, ids

model, processor, logits, ids = load(source)
again = os.path.join(work, "again")
model.save_pretrained(again)
processor.save_pretrained(again)
_, _, logits_again, ids_again = load(again)
torch.testing.assert_close(logits, logits_again)
assert torch.equal(ids, ids_again)
print(json.dumps({"logits": logits[0, -1].tolist(), "ids": ids.tolist(), "files": sorted(os.listdir(again))}))
"""
)

PIPELINE_SCRIPT = (
    WITHOUT_PACKAGE
    + """
import json, os, sys
from PIL import Image
from transformers import pipeline

source, work = sys.argv[1:3]
pipe = pipeline("image-text-to-text", model=source, trust_remote_code=True)
image = Image.open(os.path.join(work, "image.png"))
other = image.rotate(90)
part = {"type": "text", "text": "What is this?"}
chats = [
    [{"role": "user", "content": [{"type": "image", "image": image}, part]}],
    [{"role": "user", "content": [part]}],
    [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "image", "image": other}, part]}],
    [{"role": "user", "content": [{"type": "image", "image": other}, part]}],
]
# the library batches rows that all have images, or none
batches = [[chats[0], chats[2], chats[3]], [chats[1], chats[1]]]
kwargs = {"generate_kwargs": {"max_new_tokens": 8, "do_sample": False}, "return_full_text": False}
single = [pipe(text=chat, **kwargs)[0]["generated_text"] for chat in chats]
def answers(**options):
    rows = [pipe(text=batch, batch_size=4, **options, **kwargs) for batch in batches]
    (first, third, fourth), (second, again) = [[row[0]["generated_text"] for row in batch] for batch in rows]
    assert second == again
    return [first, second, third, fourth]
batched, hd = answers(), answers(processor_kwargs={"hd": True})
hd_single = [pipe(text=chat, processor_kwargs={"hd": True}, **kwargs)[0]["generated_text"] for chat in chats]
raw = pipe(images=[image], text="USER: <image>\\nWhat is this?<learnable> ASSISTANT:", **kwargs)[0]["generated_text"]
print(json.dumps({"single": single, "batched": batched, "hd": hd, "hd_single": hd_single, "raw": raw}))
"""
)


@pytest.fixture(scope="module")
def folder(processor, tmp_path_factory) -> Path:
    """A saved model folder, with its code."""
    folder = tmp_path_factory.mktemp("saved")
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def work(tmp_path) -> Path:
    """A folder to work in, which holds `image.png`."""
    make_image(0).save(tmp_path / "image.png")
    return tmp_path


@pytest.fixture(scope="module")
def expected(processor):
    """Logits and answer of the model before it was saved."""
    model = make_model()
    inputs = prepare(processor, [user(make_image(0), "What is this?")])
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    return logits, model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]


def put_into_hub_cache(folder: Path, cache: Path, repo_id: str):
    """The layout that huggingface_hub leaves after a download: blobs, a snapshot of links, a ref."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    repo = cache / ("models--" + repo_id.replace("/", "--"))
    for part in ("blobs", f"snapshots/{revision}", "refs"):
        (repo / part).mkdir(parents=True)
    (repo / "refs" / "main").write_text(revision)
    for path in folder.iterdir():
        blob = repo / "blobs" / path.name
        blob.write_bytes(path.read_bytes())
        (repo / "snapshots" / revision / path.name).symlink_to(blob)


@pytest.mark.parametrize("source", ["folder", "hub cache"])
def test_loads_without_the_package(folder, work, expected, source):
    name, env = folder, {"HF_HOME": str(work / "home"), "HF_MODULES_CACHE": str(work / "modules")}
    if source == "hub cache":
        name = "someone/flashsloth"
        env["HF_HUB_CACHE"] = str(work / "hub")
        put_into_hub_cache(folder, work / "hub", name)
    result = run(SCRIPT, name, work, **env)
    logits, ids = expected
    torch.testing.assert_close(torch.tensor(result["logits"]), logits, atol=1e-4, rtol=1e-4)
    assert result["ids"] == ids.tolist()
    code = {
        f"{part}_flashsloth.py"
        for part in ("configuration", "embedded_query", "modeling", "processing", "image_processing", "image_reading")
    }
    assert code | {"chat_template.jinja", "generation_config.json", "model.safetensors"} <= set(result["files"])


def test_auto_map_names_every_auto_class(folder):
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForImageTextToText",
        "AutoModelForMultimodalLM",
    }
    assert "AutoProcessor" in json.loads((folder / "processor_config.json").read_text())["auto_map"]


def test_pipeline_batches_equal_singles(folder, work):
    result = run(PIPELINE_SCRIPT, folder, work, HF_HOME=str(work / "home"), HF_MODULES_CACHE=str(work / "modules"))
    assert result["batched"] == result["single"]
    assert result["hd"] == result["hd_single"]
    assert not any(text.startswith(" ") for text in result["single"])
    assert len(set(result["single"])) == 4 and result["hd"][0] != result["single"][0]
    assert result["hd"][1] == result["single"][1]
    assert result["raw"]


def test_nothing_asks_whether_to_run_a_folder_s_code(folder, tmp_path):
    """The package has the classes; a folder's code runs only where a flag says so, whatever standard input says."""
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    (tmp_path / "model" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    file.write_text(json.dumps(settings | {"auto_map": {"AutoTokenizer": ["evil.X", "evil.X"]}}))
    script = """
import sys
from flashsloth import FlashSlothForCausalLM, FlashSlothImageProcessor, FlashSlothModel, FlashSlothProcessor

for part in (FlashSlothForCausalLM, FlashSlothModel, FlashSlothImageProcessor, FlashSlothProcessor):
    part.from_pretrained(sys.argv[1])
"""
    command = [sys.executable, "-c", script, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, input="y\n" * 9)
    assert not (tmp_path / "ran").exists()
    assert "[y/N]" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr[-2000:]
