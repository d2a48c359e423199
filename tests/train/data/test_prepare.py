# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
`flashsloth data prepare` on a small folder of mix665k's layout, with each trouble planted that users meet: what it
says, and what `--fix` does and leaves alone.
"""

import errno
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import encode_image, make_image

from flashsloth import cli
from flashsloth.image_reading_flashsloth import read_image
from flashsloth.train.data import prepare


JPEG = encode_image(make_image(0, 64, 48), "JPEG")
OTHER_JPEG = encode_image(make_image(1, 64, 48), "JPEG")
GIF = encode_image(make_image(2).quantize(), "GIF")
PNG = encode_image(make_image(3), "PNG")

GOOD = {
    "coco/train2017/000000000009.jpg": JPEG,
    "gqa/images/1.jpg": JPEG,
    "ocr_vqa/images/0002.jpg": JPEG,
    "textvqa/train_images/0a.jpg": JPEG,
    "vg/VG_100K/1.jpg": OTHER_JPEG,  # by the same name as GQA's
    "vg/VG_100K_2/2.jpg": JPEG,
}


def row(image: str | None, index: int = 0) -> dict:
    human = "What is it?" if image is None else "<image>\nWhat is it?"
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": "A thing."}]
    return {"id": str(index), "conversations": turns} | ({} if image is None else {"image": image})


def annotate(tmp_path: Path, images: list[str | None]) -> str:
    file = tmp_path / "mix.json"
    file.write_text(json.dumps([row(image, index) for index, image in enumerate(images)]))
    return str(file)


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by their paths in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of images, without troubles."""
    write(tmp_path / "images", GOOD)
    return tmp_path / "images"


@pytest.fixture
def run(tmp_path, folder, capsys):
    """Runs the command on a set that names the good images and others; returns its status, output and findings."""

    def run(*images: str, fix: bool = False):
        annotations, jsonl = annotate(tmp_path, [*GOOD, *images, None]), tmp_path / "found.jsonl"
        arguments = ["data", "prepare", annotations, str(folder), "--jsonl", str(jsonl), "--threads", "3"]
        status = cli.main([*arguments, *(["--fix"] if fix else [])])
        findings = [json.loads(line) for line in jsonl.read_text().splitlines()]
        return status, capsys.readouterr(), {finding["image"]: finding for finding in findings}

    return run


def test_a_complete_folder(run, folder):
    status, output, findings = run()
    assert status == 0 and findings == {}
    lines = [line.split() for line in output.out.splitlines()]
    assert lines[0][:3] == ["source", "images", "complete"]
    assert [line[:3] for line in lines[1:]] == [
        ["coco", "1", "1"],
        ["gqa", "1", "1"],
        ["ocr_vqa", "1", "1"],
        ["textvqa", "1", "1"],
        ["vg", "2", "2"],
    ]
    assert "Checking images" in output.err  # the progress bar
    assert contents(folder) == GOOD


# A trouble: the files there are, the image that the annotations name, the problem, and the file it is made of.
TROUBLES = {
    "missing": ({}, "coco/train2017/8.jpg", "missing", None),
    "a missing folder": ({}, "new/8.jpg", "missing", None),
    "a GIF": ({"ocr_vqa/images/8.gif": GIF}, "ocr_vqa/images/8.jpg", "other ending", "ocr_vqa/images/8.gif"),
    "a PNG": ({"ocr_vqa/images/8.png": PNG}, "ocr_vqa/images/8.jpg", "other ending", "ocr_vqa/images/8.png"),
    "a JPEG named gif": (
        {"ocr_vqa/images/8.gif": JPEG},
        "ocr_vqa/images/8.jpg",
        "other ending",
        "ocr_vqa/images/8.gif",
    ),
    "upper case": (
        {"textvqa/train_images/8.JPG": JPEG},
        "textvqa/train_images/8.jpg",
        "other ending",
        "textvqa/train_images/8.JPG",
    ),
    "jpeg": ({"gqa/images/8.jpeg": JPEG}, "gqa/images/8.jpg", "other ending", "gqa/images/8.jpeg"),
    "a GIF named jpg": ({"ocr_vqa/images/8.jpg": GIF}, "ocr_vqa/images/8.jpg", "other format", "ocr_vqa/images/8.jpg"),
    "nested": ({"gqa/images/images/8.jpg": JPEG}, "gqa/images/8.jpg", "nested", "gqa/images/images/8.jpg"),
    "nested twice": (
        {"vg/VG_100K/vg/VG_100K/8.jpg": JPEG},
        "vg/VG_100K/8.jpg",
        "nested",
        "vg/VG_100K/vg/VG_100K/8.jpg",
    ),
    "all nested": ({"images/gqa/images/8.jpg": JPEG}, "gqa/images/8.jpg", "nested", "images/gqa/images/8.jpg"),
    "a nested GIF": (
        {"ocr_vqa/images/images/8.gif": GIF},
        "ocr_vqa/images/8.jpg",
        "nested",
        "ocr_vqa/images/images/8.gif",
    ),
    "numbered": ({"images/00453/8.jpg": JPEG}, "00453/8.jpg", "nested", "images/00453/8.jpg"),
    "equal duplicates": (
        {"gqa/images/8.JPG": JPEG, "gqa/images/images/8.jpg": JPEG},
        "gqa/images/8.jpg",
        "other ending",
        "gqa/images/8.JPG",
    ),
    "a damaged duplicate": (
        {"gqa/images/8.JPG": b"", "gqa/images/images/8.jpg": JPEG},
        "gqa/images/8.jpg",
        "nested",
        "gqa/images/images/8.jpg",
    ),
    "other duplicates": ({"gqa/images/8.JPG": JPEG, "gqa/images/8.gif": GIF}, "gqa/images/8.jpg", "ambiguous", None),
    "truncated": ({"coco/train2017/8.jpg": JPEG[:-400]}, "coco/train2017/8.jpg", "damaged", None),
    "no bytes": ({"coco/train2017/8.jpg": b""}, "coco/train2017/8.jpg", "damaged", None),
    "a web page": ({"ocr_vqa/images/8.jpg": b"<html>404</html>"}, "ocr_vqa/images/8.jpg", "damaged", None),
    "a truncated GIF": ({"ocr_vqa/images/8.gif": GIF[:-200]}, "ocr_vqa/images/8.jpg", "damaged", None),
    "damaged, with a copy": ({"gqa/images/8.jpg": b"", "gqa/images/8.JPG": JPEG}, "gqa/images/8.jpg", "damaged", None),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_trouble_is_named_and_nothing_is_touched(trouble, run, folder):
    files, image, problem, found = TROUBLES[trouble]
    write(folder, files)
    status, output, findings = run(image)
    assert status == 1
    assert {name: (item["problem"], item["found"]) for name, item in findings.items()} == {image: (problem, found)}
    assert f"{prepare.source_of(image)}, {problem} (1):" in output.out and f"  {image}: " in output.out
    last = output.err.splitlines()[-1]
    assert last.startswith("flashsloth data prepare: error: 1 of 7 images are not as the annotations say: ")
    assert ("--fix" in last) == (found is not None)
    assert contents(folder) == GOOD | files


@pytest.mark.parametrize("trouble", TROUBLES)
def test_fix_makes_the_image_and_loses_nothing(trouble, run, folder):
    files, image, problem, found = TROUBLES[trouble]
    write(folder, files)
    status, output, findings = run(image, fix=True)
    after = contents(folder)
    kept = {**GOOD, **files}
    # Every content that was there is still there, and nothing unfinished.
    assert set(kept.values()) <= set(after.values())
    assert not [name for name in after if prepare.TEMPORARY in name]
    if found is None:
        assert status == 1 and after == kept and not findings[image]["is_fixed"]
        return
    assert status == 0 and findings[image]["is_fixed"]
    with Image.open(folder / image) as opened:
        assert opened.format == "JPEG"
    reference = np.asarray(read_image(files[found], "it"), dtype=float)
    difference = np.abs(np.asarray(read_image(folder / image, "it")) - reference).mean()
    assert difference < (5 if files[found] != JPEG else 0.1)
    assert {name: after[name] for name in GOOD} == GOOD
    status, output, findings = run(image)
    assert status == 0 and findings == {}


def test_a_reencoded_file_keeps_the_original_beside_it(run, folder):
    write(folder, {"ocr_vqa/images/8.jpg": GIF, "ocr_vqa/images/9.gif": GIF})
    assert run("ocr_vqa/images/8.jpg", "ocr_vqa/images/9.jpg", fix=True)[0] == 0
    assert contents(folder)["ocr_vqa/images/8.gif"] == contents(folder)["ocr_vqa/images/9.gif"] == GIF


def make_folder(path: Path) -> None:
    path.mkdir()


def make_link(path: Path) -> None:
    path.symlink_to("gone.jpg")


# What stands in the place of an image: how it is made, the image, the problem, and what is said of it.
OBSTACLES = {
    "a folder": (make_folder, "gqa/images/8.jpg", "not a file", "it is a folder"),
    "a pipe": (os.mkfifo, "gqa/images/8.jpg", "not a file", "it is a pipe, a socket or a device"),
    "a link": (make_link, "gqa/images/8.jpg", "broken link", "it is a link to gone.jpg, which leads nowhere"),
    "a link to itself": (
        lambda path: path.symlink_to(path.name),
        "gqa/images/8.jpg",
        "broken link",
        "it is a link to 8.jpg, which leads nowhere",
    ),
    "a link of another ending": (
        lambda path: make_link(path.with_suffix(".gif")),
        "gqa/images/8.jpg",
        "broken link",
        "gqa/images/8.gif: it is a link to gone.jpg, which leads nowhere",
    ),
    "a folder of another ending": (
        lambda path: make_folder(path.with_suffix(".jpeg")),
        "gqa/images/8.jpg",
        "missing",
        "no file of this name with any ending",
    ),
    "a linked folder": (
        lambda path: make_link(path.parent),
        "new/8.jpg",
        "broken link",
        "new is a link to gone.jpg, which leads nowhere",
    ),
    "a file in place of a folder": (
        lambda path: path.parent.write_bytes(JPEG),
        "new/8.jpg",
        "missing",
        "a file stands in the place of its folder",
    ),
    "a long name": (lambda path: None, f"gqa/images/{300 * 'x'}.jpg", "invalid name", "no file can have so long"),
    "a long folder": (lambda path: None, f"{300 * 'x'}/8.jpg", "invalid name", "no file can have so long a name"),
    "a zero byte": (lambda path: None, "gqa/images/8\0.jpg", "invalid name", "no file can have a zero byte"),
    "no name": (lambda path: None, "", "invalid name", "a row's image has an empty name"),
    "the folder itself": (lambda path: None, ".", "invalid name", "a row's image has an empty name"),
    "spaces": (lambda path: None, "  ", "missing", "  '  ': no file of this name"),
}


@pytest.mark.parametrize("fix", [False, True])
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_an_obstacle_is_named_and_nothing_is_touched(obstacle, fix, run, folder):
    make, image, problem, detail = OBSTACLES[obstacle]
    make(folder / image)
    before = sorted(folder.rglob("*"))
    status, output, findings = run(image, fix=fix)
    assert status == 1
    assert [item["problem"] for item in findings.values()] == [problem]
    assert detail in output.out and len(max(output.out.splitlines(), key=len)) < 500
    last = output.err.splitlines()[-1]
    assert last.endswith(f"1 of 7 images are not as the annotations say: {prepare.REMEDIES[problem]} (1)")
    assert sorted(folder.rglob("*")) == before


def test_an_obstacle_in_the_place_of_a_file_of_another_ending(run, folder):
    """It would be renamed, if the name were free."""
    write(folder, {"gqa/images/8.gif": GIF})
    make_link(folder / "gqa/images/8.jpg")
    status, output, findings = run("gqa/images/8.jpg", fix=True)
    assert status == 1 and findings["gqa/images/8.jpg"]["problem"] == "broken link"
    assert "which leads nowhere; gqa/images/8.gif is readable: replace it by hand" in output.out


def deny(monkeypatch, where, function: str, name: str) -> None:
    """Lets a function fail at paths that end with a name, as it does where a user has no permission."""
    allowed = getattr(where, function)

    def refuse(path, *args, **kwargs):
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", str(path))
        return allowed(path, *args, **kwargs)

    monkeypatch.setattr(where, function, refuse)


@pytest.mark.parametrize(
    ("where", "function", "name", "image", "detail"),
    [
        (Image, "open", "8.jpg", "gqa/images/8.jpg", "it cannot be read: Permission denied"),
        (Path, "stat", "gqa/images/8.jpg", "gqa/images/8.jpg", "it cannot be read: Permission denied"),
        (os, "scandir", "gqa/images", "gqa/images/9.jpg", "its folder cannot be listed: Permission denied"),
    ],
)
def test_what_may_not_be_read_is_said(where, function, name, image, detail, run, folder, monkeypatch):
    write(folder, {"gqa/images/8.jpg": JPEG, "gqa/images/9.jpeg": JPEG})
    deny(monkeypatch, where, function, name)
    status, output, findings = run(image)
    assert status == 1 and [item["problem"] for item in findings.values()] == ["unreadable"]
    assert f"  {image}: {detail}\n" in output.out
    assert output.err.splitlines()[-1].endswith("say: allow the reading of what is unreadable (1)")


def test_a_folder_that_may_not_be_changed_leaves_the_other_repairs(run, folder, monkeypatch):
    files = {"gqa/images/8.jpeg": JPEG, "ocr_vqa/images/8.gif": GIF}
    write(folder, files)
    monkeypatch.setattr(os, "link", lambda *args: deny_all(args[1]))
    monkeypatch.setattr(prepare.tempfile, "mkstemp", lambda dir, **options: deny_all(f"{dir}/new"))
    status, output, findings = run("gqa/images/8.jpg", "ocr_vqa/images/8.jpg", fix=True)
    assert status == 1 and contents(folder) == GOOD | files
    assert f"it is gqa/images/8.jpeg, but {folder}/gqa/images cannot be changed: Permission denied" in output.out
    assert output.err.splitlines()[-1].endswith(f"annotations say: {prepare.FIXED_BY_HAND} (2)")


def fail_with(number: int):
    """A function that fails as the system does, naming no file."""

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def write_half(path: Path, content: bytes) -> None:
    """Fails as a full disk does."""
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])
    fail_with(errno.ENOSPC)()


DISKS = {
    "read only": ([(os, "link", fail_with(errno.EROFS)), (prepare.tempfile, "mkstemp", fail_with(errno.EROFS))], 2),
    "full": ([(Path, "write_bytes", write_half)], 1),
    "full, without hard links": (
        [
            (os, "link", fail_with(errno.EPERM)),
            (prepare.shutil, "copyfile", lambda old, new: write_half(new, JPEG)),
            (Path, "write_bytes", write_half),
        ],
        2,
    ),
    "lossy": ([(Path, "write_bytes", lambda path, content: open(path, "wb").close())], 1),
}


@pytest.mark.parametrize("disk", DISKS)
def test_a_disk_that_cannot_be_written_is_a_finding_of_each_image(disk, run, folder, monkeypatch):
    """A rename needs a disk that can be written, a copy in JPEG also one with space."""
    patches, left = DISKS[disk]
    files = {"gqa/images/8.jpeg": JPEG, "ocr_vqa/images/8.gif": GIF}
    write(folder, files)
    for place, name, replacement in patches:
        monkeypatch.setattr(place, name, replacement)
    status, output, findings = run("gqa/images/8.jpg", "ocr_vqa/images/8.jpg", fix=True)
    after = contents(folder)
    assert status == 1 and after["ocr_vqa/images/8.gif"] == GIF
    assert output.out.startswith("source") and prepare.TEMPORARY not in output.out + output.err + str(list(after))
    assert f"it is ocr_vqa/images/8.gif, but {folder}/ocr_vqa/images cannot be changed: " in output.out
    assert output.err.splitlines()[-1].endswith(f"annotations say: {prepare.FIXED_BY_HAND} ({left})")
    assert after == GOOD | files if left == 2 else after["gqa/images/8.jpg"] == JPEG


def deny_all(path) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_the_last_line_says_what_to_do_about_each_problem(run, folder):
    write(folder, {"gqa/images/a.gif": GIF, "gqa/images/b.jpg": GIF, "gqa/images/b.gif": PNG, "gqa/images/c.jpg": b""})
    write(folder, {"vg/VG_100K/d.gif": GIF, "vg/VG_100K/d.png": PNG})
    make_folder(folder / "gqa/images/e.jpg")
    images = [f"gqa/images/{name}.jpg" for name in "abce"] + ["vg/VG_100K/d.jpg", "coco/train2017/8.jpg"]
    others = (
        "rename the right file by hand where it is ambiguous (1); download again what is damaged (1); "
        "move away what has the name of an image and is no file (1)"
    )
    _, output, _ = run(*images)
    assert output.err.splitlines()[-1].endswith(
        "error: 6 of 12 images are not as the annotations say: download what is missing (1); "
        f"--fix renames or re-encodes what is misnamed (2); {others}"
    )
    header = output.out.splitlines()[0]
    assert header.split()[-1] == "fixed" and "not a file" in header and "broken link" not in header
    _, output, _ = run(*images, fix=True)
    assert output.err.splitlines()[-1].endswith(
        "error: 5 of 12 images are not as the annotations say: download what is missing (1); "
        f"put right by hand what --fix had to leave, as the lines above say (1); {others}"
    )


def test_fix_overwrites_nothing(run, folder):
    files = {"ocr_vqa/images/8.jpg": GIF, "ocr_vqa/images/8.gif": PNG}
    write(folder, files)
    status, output, findings = run("ocr_vqa/images/8.jpg", fix=True)
    assert status == 1 and contents(folder) == GOOD | files
    assert "ocr_vqa/images/8.gif exists already: rename one by hand" in output.out


def test_fix_does_not_overwrite_a_file_that_appears_meanwhile(run, folder, monkeypatch):
    write(folder, {"gqa/images/8.jpeg": JPEG, "gqa/images/9.gif": GIF})
    repair = prepare.repair

    def late(finding, images):
        write(folder, {finding.image: b"just downloaded"})
        return repair(finding, images)

    monkeypatch.setattr(prepare, "repair", late)
    assert run("gqa/images/8.jpg", "gqa/images/9.jpg", fix=True)[0] == 1
    after = contents(folder)
    assert after["gqa/images/8.jpg"] == after["gqa/images/9.jpg"] == b"just downloaded"
    assert after["gqa/images/8.jpeg"] == JPEG and after["gqa/images/9.gif"] == GIF


def test_a_stop_in_the_middle_of_a_repair_is_continued(run, folder, monkeypatch):
    """The original has its second name, but the copy in JPEG is not written."""
    write(folder, {"ocr_vqa/images/8.jpg": GIF})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail_with(errno.ENOSPC))
        assert run("ocr_vqa/images/8.jpg", fix=True)[0] == 1
    assert contents(folder)["ocr_vqa/images/8.jpg"] == contents(folder)["ocr_vqa/images/8.gif"] == GIF
    assert run("ocr_vqa/images/8.jpg", fix=True)[0] == 0
    assert contents(folder)["ocr_vqa/images/8.gif"] == GIF


def test_a_disk_without_hard_links(run, folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write(folder, {"gqa/images/8.jpeg": JPEG, "gqa/images/9.jpg": GIF})
    assert run("gqa/images/8.jpg", "gqa/images/9.jpg", fix=True)[0] == 0
    after = contents(folder)
    assert after["gqa/images/8.jpg"] == JPEG and "gqa/images/8.jpeg" not in after
    assert after["gqa/images/9.gif"] == GIF


def test_links_to_images_elsewhere(run, folder, tmp_path):
    write(tmp_path / "store", {"a.jpg": JPEG})
    (folder / "gqa/images/images").mkdir()
    (folder / "gqa/images/images/8.jpg").symlink_to(
        os.path.relpath(tmp_path / "store/a.jpg", folder / "gqa/images/images")
    )
    assert run("gqa/images/8.jpg", fix=True)[0] == 0
    assert (folder / "gqa/images/8.jpg").read_bytes() == JPEG
    assert not (folder / "gqa/images/images/8.jpg").is_symlink()


# Links among the images: the files, the links, what the annotations name, and the regular files afterwards.
LINKED = {
    "a link to a misnamed file": (
        {"b.png": JPEG},
        {"a.png": "b.png"},
        ["a.jpg", "b.jpg"],
        {"b.png": JPEG, "b.jpg": JPEG},
    ),
    "a link that comes after its file": (
        {"a.png": JPEG},
        {"b.png": "a.png"},
        ["a.jpg", "b.jpg"],
        {"a.png": JPEG, "a.jpg": JPEG},
    ),
    "a link to a link": (
        {"a.png": JPEG},
        {"b.png": "a.png", "c.png": "b.png"},
        ["a.jpg", "b.jpg", "c.jpg"],
        {"a.png": JPEG, "a.jpg": JPEG},
    ),
    "a link that no image needs": ({"a.png": JPEG}, {"z.png": "a.png"}, ["a.jpg"], {"a.png": JPEG, "a.jpg": JPEG}),
    "a link alone": ({"store.jpeg": JPEG}, {"a.png": "store.jpeg"}, ["a.jpg"], {"store.jpeg": JPEG}),
}


@pytest.mark.parametrize("links", LINKED)
def test_no_link_is_broken_by_a_rename(links, run, folder):
    files, names, images, expected = LINKED[links]
    place = folder / "gqa/images/set"
    write(place, files)
    for name, target in names.items():
        (place / name).symlink_to(target)
    images = [f"gqa/images/set/{image}" for image in images]
    assert run(*images, fix=True)[0] == 0
    assert run(*images)[::2] == (0, {})
    paths = list(place.iterdir())
    assert all(path.exists() for path in paths)
    assert {path.name: path.read_bytes() for path in paths if not path.is_symlink()} == expected
    assert all(not os.path.isabs(os.readlink(path)) for path in paths if path.is_symlink())


@pytest.mark.parametrize(("file", "link"), ["ab", "ba"])
def test_an_image_and_a_link_to_it_are_both_reencoded(file, link, run, folder):
    write(folder, {f"gqa/images/{file}.jpg": GIF})
    (folder / f"gqa/images/{link}.jpg").symlink_to(f"{file}.jpg")
    images = ["gqa/images/a.jpg", "gqa/images/b.jpg"]
    assert run(*images, fix=True)[0] == 0
    assert run(*images)[::2] == (0, {})
    assert contents(folder)["gqa/images/a.gif"] == contents(folder)["gqa/images/b.gif"] == GIF


def test_a_file_is_not_reencoded_under_a_link_that_is_as_it_should_be(run, folder):
    write(folder, {"gqa/images/b.jpg": GIF})
    (folder / "gqa/images/a.gif").symlink_to("b.jpg")
    status, output, findings = run("gqa/images/a.gif", "gqa/images/b.jpg", fix=True)
    assert status == 1 and list(findings) == ["gqa/images/b.jpg"] and contents(folder)["gqa/images/a.gif"] == GIF
    assert "its content is GIF, but gqa/images/a.gif links to it: re-encode it by hand" in output.out


def test_a_link_that_moves_stays_relative(run, folder, tmp_path):
    """So that it still leads to its image when the folder is moved."""
    write(folder, {"gqa/store/a.jpg": JPEG})
    (folder / "gqa/images/images").mkdir()
    (folder / "gqa/images/images/8.jpg").symlink_to("../../store/a.jpg")
    assert run("gqa/images/8.jpg", fix=True)[0] == 0
    assert os.readlink(folder / "gqa/images/8.jpg") == "../store/a.jpg"
    folder.rename(tmp_path / "moved")
    assert (tmp_path / "moved/gqa/images/8.jpg").read_bytes() == JPEG


def test_another_image_is_not_taken_through_a_linked_folder(run, folder):
    (folder / "gqa/gqa").symlink_to("images")  # so that gqa/gqa/1.jpg is gqa/images/1.jpg
    status, output, findings = run("gqa/1.jpg", fix=True)
    assert status == 1 and {name: item["problem"] for name, item in findings.items()} == {"gqa/1.jpg": "missing"}
    assert (folder / "gqa/images/1.jpg").read_bytes() == JPEG and not (folder / "gqa/1.jpg").exists()


def test_another_image_is_not_taken_by_a_second_name_of_it(run, folder):
    """As a disk that does not tell cases apart has them; here, a hard link stands for it."""
    write(folder, {"gqa/images/8.PNG": PNG})
    os.link(folder / "gqa/images/8.PNG", folder / "gqa/images/8.png")
    before = contents(folder)
    status, output, findings = run("gqa/images/8.PNG", "gqa/images/8.jpg", fix=True)
    assert status == 1 and findings["gqa/images/8.jpg"]["problem"] == "missing" and contents(folder) == before


@pytest.mark.parametrize("files", [{"x.png": JPEG}, {"x.jpg": GIF}, {"x.gif": GIF}])
def test_an_image_with_two_names_is_put_right_once(files, run, folder):
    write(folder / "gqa/images", files)
    (folder / "gqa2").symlink_to("gqa")
    images = ["gqa/images/x.jpg", "gqa2/images/x.jpg"]
    status, output, findings = run(*images, fix=True)
    assert status == 0 and [findings[image]["is_fixed"] for image in images] == [True, True]
    assert run(*images)[::2] == (0, {})
    assert set(files.values()) <= set(contents(folder).values())


@pytest.mark.parametrize("folder_form", ["NFC", "NFD"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_another_unicode_form(form, folder_form, run, folder):
    """macOS writes an accent as a character of its own."""
    name, parent = "caf\u00e9.jpg", "gqa/caf\u00e9s"
    image = f"{parent}/{name}"
    found = f"{unicodedata.normalize(folder_form, parent)}/{unicodedata.normalize(form, name)}"
    write(folder, {found: JPEG})
    status, output, findings = run(image)
    if found == image:
        assert status == 0
        return
    assert status == 1 and (findings[image]["problem"], findings[image]["found"]) == ("other spelling", found)
    assert run(image, fix=True)[0] == 0
    assert contents(folder) == GOOD | {image: JPEG}
    assert run(image)[0] == 0


UNWRITABLE = "cur dcx fits fli gbr mpg pcd psd grib h5 msp palm pdf wmf xbm".split()


@pytest.mark.parametrize("fix", [False, True])
def test_endings_of_formats_that_cannot_be_written(fix, run, folder):
    """Pillow has no writer of some, has one that needs more than it has of others, and cannot read PDF again."""
    files = {f"gqa/images/{ending}.png": PNG for ending in UNWRITABLE} | {"gqa/images/in_place.psd": PNG}
    write(folder, files | {"gqa/images/8.gif": GIF})
    images = [f"gqa/images/{ending}.{ending}" for ending in UNWRITABLE] + ["gqa/images/in_place.psd"]
    status, output, findings = run(*images, "gqa/images/8.jpg", fix=fix)
    assert status == 1 and {findings[image]["problem"] for image in images} == {"unwritable format"}
    assert "gqa/images/cur.cur: it is gqa/images/cur.png, but Pillow cannot write it as CUR" in output.out
    assert findings["gqa/images/in_place.psd"]["detail"] == "its content is PNG, but Pillow cannot write it as PSD"
    assert f"{prepare.REMEDIES[prepare.UNWRITABLE]} ({len(images)})" in output.err.splitlines()[-1]
    assert findings["gqa/images/8.jpg"]["is_fixed"] == fix
    written = {name: content for name, content in contents(folder).items() if name != "gqa/images/8.jpg"}
    assert written == GOOD | files | {"gqa/images/8.gif": GIF}


def test_an_image_that_a_format_has_no_room_for(run, folder):
    """An icon has at most 256 pixels a side: Pillow would write a smaller image."""
    write(folder, {"gqa/images/8.png": encode_image(make_image(1, 300, 300), "PNG"), "gqa/images/9.jpeg": JPEG})
    status, output, findings = run("gqa/images/8.ico", "gqa/images/9.jpg", fix=True)
    assert status == 1 and findings["gqa/images/9.jpg"]["is_fixed"] and not (folder / "gqa/images/8.ico").exists()
    assert findings["gqa/images/8.ico"]["problem"] == "unwritable format"
    assert "it is gqa/images/8.png, but Pillow cannot write it as ICO of its size" in output.out


def test_a_jpeg_of_a_camera_is_as_its_ending_says(run, folder):
    frames = [make_image(seed, 64, 48) for seed in range(2)]
    for name in ("8.mpo", "9.jpg"):
        frames[0].save(folder / "gqa/images" / name, "MPO", save_all=True, append_images=frames[1:])
    assert run("gqa/images/8.mpo", "gqa/images/9.jpg")[0] == 0


def test_a_kept_original_does_not_become_another_image(run, folder):
    write(folder, {"gqa/images/8.jpg": GIF})
    status, output, findings = run("gqa/images/8.jpg", "gqa/images/8.gif", fix=True)
    assert status == 1 and contents(folder) == GOOD | {"gqa/images/8.jpg": GIF}
    assert "its content is GIF, but gqa/images/8.gif, which would keep its content, is the name of" in output.out


def test_one_file_is_not_given_to_two_images(run, folder):
    write(folder, {"gqa/images/8.gif": GIF})
    status, output, findings = run("gqa/images/8.jpg", "gqa/images/8.png", fix=True)
    assert status == 1 and {item["problem"] for item in findings.values()} == {"ambiguous"}
    assert contents(folder) == GOOD | {"gqa/images/8.gif": GIF}


def test_another_image_of_the_annotations_is_not_taken(run, folder):
    write(folder, {"gqa/images/8.png": PNG})
    status, output, findings = run("gqa/images/8.png", "gqa/images/8.jpg", fix=True)
    assert status == 1 and list(findings) == ["gqa/images/8.jpg"]


def test_a_file_that_stays_has_its_permissions(run, folder):
    write(folder, {"ocr_vqa/images/8.gif": GIF})
    (folder / "ocr_vqa/images/8.gif").chmod(0o640)
    run("ocr_vqa/images/8.jpg", fix=True)
    assert (folder / "ocr_vqa/images/8.jpg").stat().st_mode & 0o777 == 0o640


def test_where_to_get_what_is_missing(run):
    status, output, _ = run("coco/train2017/8.jpg", "vg/VG_100K_2/8.jpg", "00453/8.jpg")
    tail = output.out.split("Missing and damaged images are in:")[1]
    for address in ("train2017.zip, into coco", "images2.zip, into vg", "liuhaotian/LLaVA-Pretrain"):
        assert address in tail
    assert "gqa" not in tail and "VG_100K_2/images.zip" not in tail


def test_many_images_are_counted_and_some_are_named(run):
    missing = [f"coco/train2017/{index}.jpg" for index in range(500)]
    status, output, findings = run(*missing)
    assert status == 1 and len(findings) == 500
    assert "coco, missing (500):" in output.out and "  ... and 490 more" in output.out


def test_paths_that_stay_in_the_folder(run, folder):
    write(folder, {"..new/8.jpg": JPEG})
    absolute = str(folder / "vg/VG_100K_2/2.jpg")
    assert run("..new/8.jpg", absolute, "gqa/../vg/VG_100K/1.jpg")[0] == 0


def test_rows_that_use_an_image_twice_name_it_once(run, folder):
    status, output, findings = run("gqa/images/8.jpg", "./gqa/images/8.jpg", "gqa//images/8.jpg")
    assert len(findings) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}', "no row that can be read"),
        ("[{", "no valid JSON"),
        ("[]", "has no rows"),
        (json.dumps([row(None)]), "names no images"),
        (json.dumps([row("../secret.jpg")]), "the image ../secret.jpg, which is not in "),
        (json.dumps([row("gqa/../../secret.jpg")]), ": take '..' out of it, or name the folder that the paths start"),
        (json.dumps([row("..")]), "the image .., which is not in "),
        (json.dumps([row("/etc/secret.jpg")]), "the image /etc/secret.jpg, which is not in "),
        (json.dumps([row("/etc/secret.jpg")]), ": write the path from that folder on, or name the folder that it is"),
    ],
)
def test_bad_annotations(content, message, folder, tmp_path, capsys):
    (tmp_path / "bad.json").write_text(content)
    assert cli.main(["data", "prepare", str(tmp_path / "bad.json"), str(folder), "--fix"]) == 2
    output = capsys.readouterr()
    assert output.out == "" and message in output.err.splitlines()[-1]
    assert contents(folder) == GOOD


def test_absent_files(folder, tmp_path, capsys):
    annotations = annotate(tmp_path, list(GOOD))
    for arguments, message in (
        ([str(tmp_path / "absent.json"), str(folder)], "absent.json is not a file"),
        ([annotations, str(tmp_path / "absent")], "absent is not a folder"),
    ):
        assert cli.main(["data", "prepare", *arguments]) == 2
        output = capsys.readouterr()
        assert message in output.err and output.err.count("\n") == 1


def test_malformed_rows_are_pointed_out(folder, tmp_path, capsys, caplog):
    (tmp_path / "mix.json").write_text(json.dumps([row(list(GOOD)[0]), {"image": "gqa/images/8.jpg"}]))
    cli.main(["data", "prepare", str(tmp_path / "mix.json"), str(folder)])
    assert "1 rows are malformed" in caplog.text + capsys.readouterr().err


@pytest.mark.parametrize("archive", prepare.ARCHIVES, ids=lambda archive: archive.folder or archive.name)
def test_every_archive_is_of_a_source(archive):
    assert prepare.source_of(f"{archive.folder or '00453'}/1.jpg") == archive.name
