# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Compares a folder of images with the annotation file that names them, and puts right what is only misnamed. This is
for sets whose images are downloaded and unpacked by hand, as those of LLaVA are (docs/data.md): archives get unpacked
into a folder of their own name, and OCR-VQA's links give GIFs where the annotations say `.jpg`.

Nothing is ever overwritten or removed: a file gets another name, or a re-encoded copy beside it. Links make several
names of one file, or of one folder. Names are therefore compared by the folder that they are really in, and a file
that a link leads to keeps its name.
"""

import contextlib
import errno
import functools
import logging
import os
import shutil
import stat
import tempfile
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path, PurePosixPath

import PIL.Image
import pyarrow.compute as pc
from tqdm.auto import tqdm

from flashsloth.image_reading_flashsloth import UNREACHABLE_IMAGE, ImageError, read_image
from flashsloth.train.data.sources import DataSource, load_data
from flashsloth.train.data.wording import LIMIT, shorten


logger = logging.getLogger(__name__)

# The archives of the published training sets: the folder where the annotations expect their images, and where to get
# them. `into` is the folder to unpack into.
LLAVA_PRETRAIN = "LLaVA-Pretrain"


@dataclass(frozen=True)
class Archive:
    """Images that are downloaded together, of the source `name`."""

    name: str
    folder: str
    url: str
    into: str


ARCHIVES = (
    Archive("coco", "coco/train2017", "http://images.cocodataset.org/zips/train2017.zip", "coco"),
    Archive("gqa", "gqa/images", "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip", "gqa"),
    Archive(
        "ocr_vqa",
        "ocr_vqa/images",
        "https://drive.google.com/drive/folders/1_GYPY5UkUy7HIcR0zq3ZCFgeZN7BAfm_ (its script)",
        "ocr_vqa",
    ),
    Archive(
        "textvqa",
        "textvqa/train_images",
        "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
        "textvqa",
    ),
    Archive("vg", "vg/VG_100K", "https://cs.stanford.edu/people/rak248/VG_100K_2/images.zip", "vg"),
    Archive("vg", "vg/VG_100K_2", "https://cs.stanford.edu/people/rak248/VG_100K_2/images2.zip", "vg"),
    Archive(
        LLAVA_PRETRAIN,
        "",
        "https://huggingface.co/datasets/liuhaotian/LLaVA-Pretrain (images.zip)",
        "the folder of images",
    ),
)

# What may be wrong with an image, in the order of the report.
MISSING = "missing"
OTHER_ENDING = "other ending"  # its name has another ending than the annotations say
OTHER_FORMAT = "other format"  # its content is of another format than its ending says
OTHER_SPELLING = "other spelling"  # its name has the same letters, but in other bytes: macOS writes an accent apart
NESTED = "nested"  # it is in a folder within the folder, of the same name
AMBIGUOUS = "ambiguous"  # several different files could be it
DAMAGED = "damaged"
BROKEN_LINK = "broken link"  # a symbolic link to nothing
NOT_A_FILE = "not a file"  # a folder, say, has its name
UNREADABLE = "unreadable"  # the system does not let us read it
INVALID_NAME = "invalid name"  # no file can have it
UNWRITABLE = "unwritable format"  # it would have to be re-encoded, and Pillow cannot write the format of its ending
FIXABLE = (OTHER_ENDING, OTHER_FORMAT, OTHER_SPELLING, NESTED)

# What to do about each; FIXED_BY_HAND is for those that --fix has to leave as they are.
REMEDIES = {
    MISSING: "download what is missing",
    **dict.fromkeys(FIXABLE, "--fix renames or re-encodes what is misnamed"),
    AMBIGUOUS: "rename the right file by hand where it is ambiguous",
    DAMAGED: "download again what is damaged",
    BROKEN_LINK: "point broken links to their images, or remove them",
    NOT_A_FILE: "move away what has the name of an image and is no file",
    UNREADABLE: "allow the reading of what is unreadable",
    INVALID_NAME: "correct invalid names in the annotations",
    UNWRITABLE: "correct the ending in the annotations, or convert by hand, what cannot be written in that format",
}
FIXED_BY_HAND = "put right by hand what --fix had to leave, as the lines above say"
PROBLEMS = tuple(REMEDIES)

ENCODING = {"quality": 95, "subsampling": "4:4:4"}  # of a re-encoded JPEG: coloured letters stay sharp
SAME_FORMAT = {"MPO": "JPEG"}  # JPEGs of cameras that hold a second image
PATHS_PER_TASK = 64
NAMES_IN_REPORT = 10  # of each source and problem
LONGEST_SOURCE = 40  # characters in the report
NO_TROUBLE = (None, "")
EMPTY_NAME = "a row's image has an empty name, or that of the folder: flashsloth data check says which row"
TRIAL_SIZE = (32, 32)  # pixels of the image that shows whether a format can be written: one that icons have too
TEMPORARY = ".flashsloth-"  # what the name of an unfinished file begins with


class IncompleteImages(OSError):
    """Some images that the annotations name are missing or not as they say."""


class RepairError(Exception):
    """
    Why a misnamed image cannot be put right.

    Args:
        detail (`str`): The reason.
        problem (`str`, *optional*): One of `PROBLEMS`, if that is what is really wrong with the image.
    """

    def __init__(self, detail: str, problem: str | None = None):
        super().__init__(detail)
        self.problem = problem


@dataclass(frozen=True)
class Finding:
    """
    An image that is not as the annotations say.

    Args:
        image (`str`): Its path in the folder, as the annotations have it.
        problem (`str`): One of `PROBLEMS`.
        detail (`str`): What was found.
        found (`str`, *optional*): The path in the folder of the file that it can be made of.
        is_fixed (`bool`, *optional*, defaults to `False`): Whether it was put right.
    """

    image: str
    problem: str
    detail: str
    found: str | None = None
    is_fixed: bool = False

    @property
    def source(self) -> str:
        """The name of the set that it comes from."""
        return source_of(self.image)


def source_of(image: str) -> str:
    """The set that an image comes from: the first folder of its path; LLaVA-Pretrain's folders are numbers."""
    first, *rest = PurePosixPath(image).parts or (".",)
    return LLAVA_PRETRAIN if rest and first.isdecimal() else first if rest else "."


# The images that the annotations name


def named_images(annotations: str | Path, folder: str | Path) -> list[str]:
    """
    The paths of the images that the rows of an annotation file name, each once, relative to the folder.

    Args:
        annotations (`str` or `Path`): A file in any form that training reads.
        folder (`str` or `Path`): Where the paths start.

    Raises:
        ValueError: If the file has no rows of a known form, names no images, or names one outside of the folder.
        FileNotFoundError: If the file or the folder does not exist.
    """
    annotations, folder = os.fspath(annotations), os.fspath(folder)
    if not os.path.isfile(annotations):
        raise FileNotFoundError(
            f"{annotations} is not a file: name the annotation file, such as llava_v1_5_mix665k.json"
        )
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"{folder} is not a folder: name the one that the paths of the images start from")
    rows = load_data([DataSource(annotations, image_folder=folder)], seed=0)
    images = rows.data.column("images").combine_chunks().flatten()
    paths, contents = pc.struct_field(images, "path"), pc.struct_field(images, "bytes")
    unique = pc.unique(pc.if_else(pc.is_null(contents), paths, None)).to_pylist()
    start = os.path.abspath(folder)
    names = [_name_in(path, start, annotations) for path in unique if path is not None and "://" not in path]
    if not names:
        raise ValueError(f"{annotations} names no images: there is nothing to compare with {folder}")
    malformed = len(rows) - rows.data.column("problem").null_count
    if malformed:
        logger.warning("%s rows are malformed, and their images unknown: see flashsloth data check", f"{malformed:,}")
    return sorted(set(names))


def _name_in(path: str, folder: str, annotations: str) -> str:
    name = Path(os.path.relpath(path, folder))
    if name.parts[:1] != (os.pardir,):
        return name.as_posix()
    start = os.path.join(folder, "")  # what a path of the annotations was put behind, unless it is absolute
    named = f"{annotations} names the image {_shown(path.removeprefix(start))}, which is not in {folder}"
    if path.startswith(start):
        raise ValueError(f"{named}: take '..' out of it, or name the folder that the paths start from")
    raise ValueError(f"{named}: write the path from that folder on, or name the folder that it is in")


def _shown(name: str, limit: int = LIMIT) -> str:
    """A name in a message, where it is one line and its ends are seen."""
    return shorten(name if name.isprintable() and name == name.strip() else repr(name), limit)


# What is wrong with one image


class ImageFolder:
    """
    The files of a folder, by their names without ending.

    Args:
        folder (`str` or `Path`): The folder.
        images (`list[str]`): The images that it should hold, relative to it.
    """

    def __init__(self, folder: str | Path, images: Iterable[str]):
        self.folder = Path(folder)
        self.images = set(images)
        self.endings = PIL.Image.registered_extensions()  # formats by endings in lower case
        self.directories = {}  # what tells real folders apart, by the paths that lead to them
        self.owners = defaultdict(tuple)  # images by where they are, whatever the case of their letters
        for image in self.images:
            self.owners[self._loosely(image)] += (image,)
        self.subfolders = {}  # names in a folder, by their normal form, by its path
        parents = {os.path.dirname(image) for image in self.images}
        self.places = {parent: list(self._places(parent)) for parent in parents}
        self.closed = {}  # why a folder cannot be listed, by its path
        self.links = defaultdict(list)  # the links that lead to a file, by where it is
        self.names = {place: self._names(place) for places in self.places.values() for place in places}

    def entry(self, name: str) -> tuple:
        """What is equal for two names of one place on the disk: the real folder, and the name in it."""
        parent, last = os.path.split(self.folder / name)
        if parent not in self.directories:
            self.directories[parent] = _directory(parent)
        return self.directories[parent], last

    def _loosely(self, name: str) -> tuple:
        """An entry as the disks of macOS and Windows compare names: in any case, and with accents of any form."""
        directory, last = self.entry(name)
        return directory, _normal(last).casefold()

    def _places(self, parent: str) -> Iterator[str]:
        """A folder, and where its files are if it is spelled otherwise, or was unpacked one folder too deep."""
        parts = PurePosixPath(parent).parts
        nested = [(self.folder.absolute().name, *parts)]
        nested += [(*parts[:end], *parts[start:]) for end in range(1, len(parts) + 1) for start in range(end)]
        yield parent
        for place in map("/".join, [parts, *nested]):
            spellings = [place] if place.isascii() else self._spellings(place)
            yield from (name for name in spellings if name != parent and os.path.isdir(self.folder / name))

    def _spellings(self, place: str) -> list[str]:
        """The folders whose paths have the same normal form."""
        found = [""]
        for part in map(_normal, PurePosixPath(place).parts):
            found = [
                f"{start}/{name}" if start else name
                for start in found
                for name in ([part] if part.isascii() else self._subfolders(start).get(part, ()))
            ]
        return found

    def _subfolders(self, place: str) -> dict[str, list[str]]:
        if place not in self.subfolders:
            names = self.subfolders[place] = defaultdict(list)
            try:
                for name in sorted(os.listdir(self.folder / place)):
                    if not name.isascii():
                        names[_normal(name)].append(name)
            except (OSError, ValueError):  # what is wrong with each of its images says why
                pass
        return self.subfolders[place]

    def _names(self, place: str) -> dict[str, list[str]]:
        names = defaultdict(list)
        try:
            with os.scandir(self.folder / place) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        self._note_link(place, entry.name)
                    stem, ending = os.path.splitext(entry.name)
                    if ending.lower() in self.endings and not entry.is_dir(follow_symlinks=False):
                        names[_normal(stem)].append(entry.name)
        except PermissionError as error:
            self.closed[place] = error.strerror
        except (OSError, ValueError):  # there is no such folder: what is wrong with each of its images says why
            return {}
        return names

    def _note_link(self, place: str, name: str) -> None:
        link = f"{place}/{name}" if place else name
        for path in _led_to(self.folder / link):
            self.links[self._loosely(path)].append(link)

    def is_annotated(self, name: str) -> bool:
        """Whether an image of the annotations is at the place of a name, by whatever name."""
        return any(
            self.entry(owner) == self.entry(name) or _is_same_entry(self.folder / owner, self.folder / name)
            for owner in self.owners.get(self._loosely(name), ())
        )

    def links_to(self, name: str) -> list[str]:
        """The links, in the folders of images, that lead to a file."""
        return self.links.get(self._loosely(name), [])

    def examine(self, image: str) -> Finding | None:
        """What is wrong with an image, if anything is."""
        try:
            return self._examine(image)
        except OSError as error:  # it has changed since it was listed, or the disk fails
            return Finding(image, UNREADABLE, f"it cannot be read: {error.strerror or error}")

    def _examine(self, image: str) -> Finding | None:
        path = self.folder / image
        problem, detail = _trouble(path) if path != self.folder else (INVALID_NAME, EMPTY_NAME)
        if problem == MISSING:
            return self._examine_candidates(image, detail)
        if problem:
            copies = self._readable(image)
            hint = f"; {copies[0]} is readable: replace it by hand" if copies else ""
            return Finding(image, problem, f"{detail}{hint}")
        found = _format(path)
        if self.expected_format(image) not in (None, found):
            return self._checked(Finding(image, OTHER_FORMAT, f"its content is {found}", image))
        return None

    def _examine_candidates(self, image: str, detail: str) -> Finding:
        """What there is in the place of an image that is not there."""
        candidates, readable = list(self._candidates(image)), self._readable(image)
        closed = [place for place in self.places[os.path.dirname(image)] if place in self.closed]
        if not candidates and closed:
            return Finding(image, UNREADABLE, f"its folder cannot be listed: {self.closed[closed[0]]}")
        if not candidates:
            return Finding(image, MISSING, detail)
        if not readable:
            problem, detail = _trouble(self.folder / candidates[0])
            return Finding(image, problem, f"{candidates[0]}: {detail}")
        if not _same_content([self.folder / candidate for candidate in readable]):
            return Finding(image, AMBIGUOUS, f"it could be {' or '.join(readable)}: give the right one its name")
        found = readable[0]
        problem = OTHER_SPELLING
        if _normal(os.path.dirname(found)) != _normal(os.path.dirname(image)):
            problem = NESTED
        elif os.path.splitext(found)[1] != os.path.splitext(image)[1]:
            problem = OTHER_ENDING
        return self._checked(Finding(image, problem, f"it is {found}", found))

    def _checked(self, finding: Finding) -> Finding:
        """A finding, which has another problem if the file would have to be written in a format that cannot be."""
        expected = self.expected_format(finding.image)
        if expected in (None, _format(self.folder / finding.found)):
            return finding
        reason = _unwritable(expected)
        return replace(finding, problem=UNWRITABLE, detail=f"{finding.detail}, but {reason}") if reason else finding

    def _candidates(self, image: str) -> Iterator[str]:
        """Files that could be the image, but are not at its path, nor another image's."""
        parent, stem = os.path.split(os.path.splitext(image)[0])
        for place in self.places[parent]:
            for name in sorted(self.names[place].get(_normal(stem), ())):
                candidate = f"{place}/{name}" if place else name
                if not self.is_annotated(candidate):
                    yield candidate

    def _readable(self, image: str) -> list[str]:
        return [found for found in self._candidates(image) if _trouble(self.folder / found) == NO_TROUBLE]

    def expected_format(self, image: str) -> str | None:
        """The format that the ending of an image's name stands for."""
        found = self.endings.get(os.path.splitext(image)[1].lower())
        return SAME_FORMAT.get(found, found)


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _directory(path: str) -> tuple[int, int] | str:
    """What two paths of one folder have in common; of one that does not exist yet, its path without links."""
    try:
        path = os.path.realpath(path)
        status = os.stat(path)
    except (OSError, ValueError):
        return path
    return status.st_dev, status.st_ino


def _is_same_entry(first: Path, second: Path) -> bool:
    """Whether a disk that takes two names for one finds the same file, or link, by both."""
    try:
        return os.path.samestat(first.lstat(), second.lstat())
    except (OSError, ValueError):
        return False


def _led_to(path: Path) -> Iterator[Path]:
    """What a link leads to, one after the other if that is a link too."""
    seen = set()
    while path.is_symlink() and path not in seen:  # it may lead back to itself
        seen.add(path)
        path = _target(path)
        yield path


def _target(link: Path) -> Path:
    """Where a link leads, by the real folder."""
    parent, name = os.path.split(os.path.join(os.path.realpath(link.parent), os.readlink(link)))
    return Path(os.path.realpath(parent)) / name


def _trouble(path: Path) -> tuple[str | None, str]:
    """What makes an image unreadable: the problem, and what was found."""
    try:
        status = path.stat()
    except ValueError:
        return INVALID_NAME, "no file can have a zero byte in its name"
    except OSError as error:
        return _trouble_of_path(path, error)
    if not stat.S_ISREG(status.st_mode):
        return NOT_A_FILE, "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is a pipe, a socket or a device"
    if not status.st_size:
        return DAMAGED, "it has no bytes"
    try:
        read_image(path, "it", reduced=True)
    except ImageError as error:
        return UNREADABLE if error.reason == UNREACHABLE_IMAGE else DAMAGED, error.detail.rstrip(".")
    return NO_TROUBLE


def _trouble_of_path(path: Path, error: OSError) -> tuple[str, str]:
    """What an error of the system says of a path at which it finds nothing."""
    if error.errno == errno.ENAMETOOLONG:
        return INVALID_NAME, "no file can have so long a name"
    if error.errno == errno.ENOTDIR:
        return MISSING, "a file stands in the place of its folder"
    if error.errno not in (errno.ENOENT, errno.ELOOP):
        return UNREADABLE, f"it cannot be read: {error.strerror}"
    link = next((place for place in (path, *path.parents) if place.is_symlink() and not place.exists()), None)
    if link is None:
        return MISSING, "no file of this name with any ending"
    whose = "it" if link == path else f"its folder {link}"
    return BROKEN_LINK, f"{whose} is a link to {os.readlink(link)}, which leads nowhere"


def _format(path: Path) -> str:
    with PIL.Image.open(path) as image:
        return SAME_FORMAT.get(image.format, image.format)


def _same_content(paths: list[Path]) -> bool:
    return all(
        first.samefile(second) or first.read_bytes() == second.read_bytes() for first, second in pairwise(paths)
    )


# Repairs


def repair(finding: Finding, images: ImageFolder) -> Finding:
    """
    Gives a misnamed file its name, or writes a re-encoded copy under that name.

    Args:
        finding ([`Finding`]): With a problem of `FIXABLE`.
        images ([`ImageFolder`]): The folder.

    Returns:
        The finding, fixed; or with another detail, if that would overwrite a file, the system refuses it, or Pillow
        cannot write the format, which is another problem.
    """
    try:
        return replace(finding, detail=_put_right(finding, images), is_fixed=True)
    except RepairError as error:
        return replace(finding, problem=error.problem or finding.problem, detail=f"{finding.detail}, but {error}")
    except ImageError as error:  # it has changed since it was examined
        reason = error.detail
    except FileExistsError as error:
        existing = Path(error.filename2 or error.filename).relative_to(images.folder).as_posix()
        reason = f"{existing} exists already: rename one by hand"
    except OSError as error:
        named = error.filename2 or error.filename or images.folder / finding.image
        reason = f"{Path(named).parent} cannot be changed: {error.strerror or error}"
    return replace(finding, detail=f"{finding.detail}, but {reason}")


def _put_right(finding: Finding, images: ImageFolder) -> str:
    """Renames or re-encodes; returns what was done."""
    path, found = images.folder / finding.image, images.folder / finding.found
    expected = images.expected_format(finding.image)
    is_right = expected is None or _format(found) == expected
    if is_right and found == path:
        return "put right meanwhile"
    content = None if is_right else _encode(read_image(found, finding.found), expected)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_right:
        return _rename(finding, images)
    kept = _keep_under_own_ending(finding, images) if found == path else found
    _write(content, path, like=kept, replaces=found == path)
    return f"re-encoded from {kept.relative_to(images.folder).as_posix()}"


def _rename(finding: Finding, images: ImageFolder) -> str:
    """Renames without ever overwriting: `os.rename` would, of a file that has appeared since."""
    old, new = images.folder / finding.found, images.folder / finding.image
    if old.is_symlink():
        os.symlink(_moved_link(old, new.parent), new)
    else:
        _link(old, new)
    links = images.links_to(finding.found)
    if links:
        return f"a second name of {finding.found}, which stays: {links[0]} links to it"
    old.unlink()
    return f"renamed from {finding.found}"


def _moved_link(link: Path, folder: Path) -> str:
    """The text of a link that leads to the same file from another folder: a relative one stays relative."""
    text, here, there = os.readlink(link), os.path.realpath(link.parent), os.path.realpath(folder)
    return text if os.path.isabs(text) or here == there else os.path.relpath(_target(link), there)


def _link(old: Path, new: Path) -> None:
    """Gives a file a second name that no file has."""
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links, such as exFAT: a copy, which appears under its name when it is whole
        with _unfinished(new, like=old) as unfinished:
            shutil.copyfile(old, unfinished)
            _check_written(unfinished, old.read_bytes())
            if os.path.lexists(new):
                raise FileExistsError(None, "exists", str(old), None, str(new)) from None
            unfinished.replace(new)


def _keep_under_own_ending(finding: Finding, images: ImageFolder) -> Path:
    """A second name for a file, with the ending of its format."""
    path = images.folder / finding.found
    kept = path.with_suffix(f".{_format(path).lower()}")
    if kept.exists() and _same_content([path, kept]):
        return kept
    name = kept.relative_to(images.folder).as_posix()
    if images.is_annotated(name):
        raise RepairError(f"{name}, which would keep its content, is the name of another image: re-encode it by hand")
    _link(path.resolve(), kept)
    return kept


def _encode(image: PIL.Image.Image, image_format: str) -> bytes:
    """
    An image in a format, from which training reads one of the same size.

    Raises:
        RepairError: If Pillow cannot write, or not read again, such an image.
    """
    content = BytesIO()
    refusal = f"Pillow cannot write it as {image_format}"
    if image_format not in PIL.Image.SAVE:
        raise RepairError(refusal, UNWRITABLE)
    try:
        image.save(content, image_format, **ENCODING)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's encoders raise whatever an image that does not suit them leads them to
        raise RepairError(f"{refusal} ({shorten(str(error))})", UNWRITABLE) from error
    try:
        size = read_image(content.getvalue(), "it").size
    except ImageError as error:
        raise RepairError(f"{refusal} that can be read again here", UNWRITABLE) from error
    if size != image.size or _format(content) != image_format:
        raise RepairError(f"{refusal} of its size", UNWRITABLE)
    return content.getvalue()


@functools.cache
def _unwritable(image_format: str) -> str | None:
    """Why no image in RGB can be written in a format, if that is so."""
    try:
        _encode(PIL.Image.new("RGB", TRIAL_SIZE), image_format)
    except RepairError as error:
        return str(error)
    return None


def _write(content: bytes, new: Path, like: Path, replaces: bool) -> None:
    """Writes a file, which appears under its name when it is whole; `replaces` a second name of the same file."""
    with _unfinished(new, like) as unfinished:
        unfinished.write_bytes(content)
        _check_written(unfinished, content)
        if replaces:
            unfinished.replace(new)
        else:
            _link(unfinished, new)


def _check_written(path: Path, content: bytes) -> None:
    if path.read_bytes() != content:
        raise OSError(errno.EIO, "the disk returns other bytes than were written", str(path))


@contextlib.contextmanager
def _unfinished(path: Path, like: Path) -> Iterator[Path]:
    """A file beside `path` that is gone at the end, with the permissions of another."""
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        shutil.copymode(like, name)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


# All images


def check_images(images: ImageFolder, threads: int, fix: bool = False, progress: bool = True) -> list[Finding]:
    """
    Finds the images that are not as the annotations say, and puts right what is only misnamed.

    Args:
        images ([`ImageFolder`]): The folder and the images that it should hold.
        threads (`int`): How many images are read at once.
        fix (`bool`, *optional*, defaults to `False`): Whether to rename and re-encode.
        progress (`bool`, *optional*, defaults to `True`): Whether to show progress bars on standard error.

    Returns:
        `list[Finding]`, in the order of their paths.
    """
    findings = _in_threads(images.examine, sorted(images.images), threads, "Checking images", progress)
    findings = _without_shared([finding for finding in findings if finding], images)
    if not fix:
        return findings
    findings, fixable = _without_needed(findings, images)
    depths = {entry: _depth(finding, images) for entry, finding in fixable.items()}
    free = [finding for entry, finding in fixable.items() if depths[entry] is None]
    linked = [entry for entry, depth in depths.items() if depth is not None]
    linked = [fixable[entry] for entry in sorted(linked, key=depths.get, reverse=True)]
    repaired = _in_threads(lambda finding: repair(finding, images), free, threads, "Renaming images", progress)
    if linked:  # one after the other: a link before what it leads to
        repaired += _in_threads(lambda finding: repair(finding, images), linked, 1, "Renaming links", progress)
    results = {images.entry(finding.image): finding for finding in repaired}
    return [_result(finding, results.get(images.entry(finding.image))) for finding in findings]


def _without_shared(findings: list[Finding], images: ImageFolder) -> list[Finding]:
    """
    Two images, such as a.jpg and a.png, may both be missing where there is one a.gif: neither gets it. Nor does an
    image with two names get a file if another one is found by its second name.
    """
    entries = [
        (images.entry(finding.image), images.entry(finding.found) if finding.found else finding.problem)
        for finding in findings
        if finding.found or finding.problem == AMBIGUOUS
    ]
    pairs = set(entries)  # of several names of an image, each once
    takers, files = Counter(found for _, found in pairs), Counter(image for image, _ in pairs)

    def checked(finding: Finding) -> Finding:
        if finding.found and takers[images.entry(finding.found)] > 1:
            detail = f"{finding.found} could be several images"
        elif finding.found and files[images.entry(finding.image)] > 1:
            detail = f"it could be {finding.found}, or another file that its other name leads to"
        else:
            return finding
        return replace(finding, problem=AMBIGUOUS, detail=detail, found=None)

    return list(map(checked, findings))


def _without_needed(findings: list[Finding], images: ImageFolder) -> tuple[list[Finding], dict[tuple, Finding]]:
    """
    The plan: what can be put right, one finding for each place on the disk. An image cannot get another content where
    it is if a link leads to it, unless that link is replaced too: the link may be an image that is as it should be.
    """
    fixable = {images.entry(finding.image): finding for finding in findings if finding.problem in FIXABLE}
    replaced = {entry for entry, finding in fixable.items() if finding.found == finding.image}
    held = {}
    for entry in replaced:
        links = [link for link in images.links_to(fixable[entry].image) if images.entry(link) not in replaced]
        if links:
            held[entry] = f"{fixable[entry].detail}, but {links[0]} links to it: re-encode it by hand"
    findings = [
        replace(finding, detail=held[images.entry(finding.image)])
        if images.entry(finding.image) in held and finding.problem in FIXABLE
        else finding
        for finding in findings
    ]
    return findings, {entry: finding for entry, finding in fixable.items() if entry not in held}


def _depth(finding: Finding, images: ImageFolder) -> int | None:
    """How many links a file is away from its content; `None` if it neither is a link nor has one."""
    depth = sum(1 for _ in _led_to(images.folder / finding.found))
    return depth if depth or images.links_to(finding.found) else None


def _result(finding: Finding, repaired: Finding | None) -> Finding:
    """What became of an image, of which another name may have been put right."""
    if repaired is None or not (repaired.is_fixed or finding.problem in FIXABLE):
        return finding
    return replace(repaired, image=finding.image, found=finding.found)


def _in_threads(function: Callable, items: list, threads: int, title: str, progress: bool) -> list:
    """The results of a function, in the order of the items."""
    pool = ThreadPoolExecutor(threads)
    results = []
    try:
        with (
            warnings.catch_warnings(),
            tqdm(total=len(items), desc=title, unit=" images", disable=not progress) as bar,
        ):
            warnings.simplefilter("ignore")  # Pillow's, about files that it can read
            # A task each would hold a gigabyte of tasks.
            batches = (items[start : start + PATHS_PER_TASK] for start in range(0, len(items), PATHS_PER_TASK))
            for part in pool.map(lambda batch: [function(item) for item in batch], batches):
                results += part
                bar.update(len(part))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, only what has begun is finished
    return results


# The report


def report(images: Iterable[str], findings: list[Finding]) -> str:
    """A table of sources and problems, the names of the images, and where to get those that are missing."""
    totals = Counter(map(source_of, images))
    left = [finding for finding in findings if not finding.is_fixed]
    counts = Counter((finding.source, finding.problem) for finding in left)
    fixed = Counter(finding.source for finding in findings if finding.is_fixed)
    present = [problem for problem in PROBLEMS if any(finding.problem == problem for finding in left)]
    cells = [("source", "images", "complete", *present, "fixed")]
    for source, total in sorted(totals.items()):
        problems = [counts[source, problem] for problem in present]
        numbers = (total, total - sum(problems), *problems, fixed[source])
        cells.append((_shown(source, LONGEST_SOURCE), *(f"{count:,}" for count in numbers)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        numbers = (f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([f"{first:{widths[0]}}", *numbers]))
    for (source, problem), count in sorted(counts.items()):
        lines += ["", f"{_shown(source, LONGEST_SOURCE)}, {problem} ({count:,}):"]
        names = [finding for finding in left if (finding.source, finding.problem) == (source, problem)]
        lines += [f"  {_shown(finding.image)}: {finding.detail}" for finding in names[:NAMES_IN_REPORT]]
        lines += [f"  ... and {count - NAMES_IN_REPORT:,} more"] if count > NAMES_IN_REPORT else []
    return "\n".join([*lines, *_downloads(left)])


def _downloads(findings: list[Finding]) -> list[str]:
    """Where the archives are that missing images belong to."""
    folders = {os.path.dirname(finding.image) for finding in findings if finding.problem in (MISSING, DAMAGED)}
    folders = {"" if folder.isdecimal() else folder for folder in folders if folder}
    lines = [f"  {archive.url}, into {archive.into}" for archive in ARCHIVES if archive.folder in folders]
    return ["", "Missing and damaged images are in:", *lines] if lines else []


def prepare(
    annotations: str | Path, folder: str | Path, fix: bool = False, threads: int | None = None, progress: bool = True
) -> tuple[list[str], list[Finding]]:
    """
    Compares a folder of images with an annotation file.

    Args:
        annotations (`str` or `Path`): A file in any form that training reads.
        folder (`str` or `Path`): Where the paths of its images start.
        fix (`bool`, *optional*, defaults to `False`): Whether to rename and re-encode what is only misnamed.
        threads (`int`, *optional*): How many images are read at once; a few more than there are cores if unset.
        progress (`bool`, *optional*, defaults to `True`): Whether to show progress bars on standard error.

    Returns:
        The images that the annotations name, and the [`Finding`]s about them.

    Raises:
        ValueError, FileNotFoundError, NotADirectoryError: See [`named_images`].
    """
    names = named_images(annotations, folder)
    images = ImageFolder(folder, names)
    return names, check_images(images, threads or min(32, (os.cpu_count() or 1) + 4), fix, progress)


def check_complete(images: list[str], findings: list[Finding], fix: bool) -> None:
    """
    Sees that all images are as the annotations say.

    Raises:
        IncompleteImages: If some are not.
    """
    left = [finding for finding in findings if not finding.is_fixed]
    if not left:
        return
    remedies = {**REMEDIES, **dict.fromkeys(FIXABLE, FIXED_BY_HAND)} if fix else REMEDIES
    counts = Counter(remedies[finding.problem] for finding in sorted(left, key=lambda it: PROBLEMS.index(it.problem)))
    what_to_do = "; ".join(f"{remedy} ({count:,})" for remedy, count in counts.items())
    raise IncompleteImages(f"{len(left):,} of {len(images):,} images are not as the annotations say: {what_to_do}")
