# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Compares a folder of images with the annotation file that names them, and puts right what is only misnamed. This is
for sets whose images are downloaded and unpacked by hand, as those of LLaVA are (docs/data.md): archives get unpacked
into a folder of their own name, and OCR-VQA's links give GIFs where the annotations say `.jpg`.

Nothing is ever overwritten or removed: a file gets another name, or a re-encoded copy beside it.
"""

import contextlib
import errno
import logging
import os
import shutil
import stat
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
NESTED = "nested"  # it is in a folder within the folder, of the same name
AMBIGUOUS = "ambiguous"  # several different files could be it
DAMAGED = "damaged"
BROKEN_LINK = "broken link"  # a symbolic link to nothing
NOT_A_FILE = "not a file"  # a folder, say, has its name
UNREADABLE = "unreadable"  # the system does not let us read it
INVALID_NAME = "invalid name"  # no file can have it
FIXABLE = (OTHER_ENDING, OTHER_FORMAT, NESTED)

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
TEMPORARY = ".flashsloth-"  # what the name of an unfinished file begins with


class IncompleteImages(OSError):
    """Some images that the annotations name are missing or not as they say."""


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
        parents = {os.path.dirname(image) for image in self.images}
        self.places = {parent: list(self._places(parent)) for parent in parents}
        self.closed = {}  # why a folder cannot be listed, by its path
        self.names = {place: self._names(place) for places in self.places.values() for place in places}

    def _places(self, parent: str) -> Iterator[str]:
        """A folder, and where its files are if an archive was unpacked one folder too deep."""
        parts = PurePosixPath(parent).parts
        nested = [(self.folder.absolute().name, *parts)]
        nested += [(*parts[:end], *parts[start:]) for end in range(1, len(parts) + 1) for start in range(end)]
        yield parent
        yield from (place for place in map("/".join, nested) if os.path.isdir(self.folder / place))

    def _names(self, place: str) -> dict[str, list[str]]:
        names = defaultdict(list)
        try:
            with os.scandir(self.folder / place) as entries:
                for entry in entries:
                    stem, ending = os.path.splitext(entry.name)
                    if ending.lower() in self.endings and not entry.is_dir(follow_symlinks=False):
                        names[stem].append(entry.name)
        except PermissionError as error:
            self.closed[place] = error.strerror
        except (OSError, ValueError):  # there is no such folder: what is wrong with each of its images says why
            return {}
        return names

    def examine(self, image: str) -> Finding | None:
        """What is wrong with an image, if anything is."""
        path = self.folder / image
        problem, detail = _trouble(path) if path != self.folder else (INVALID_NAME, EMPTY_NAME)
        if problem == MISSING:
            return self._examine_candidates(image, detail)
        if problem:
            copies = self._readable(image)
            hint = f"; {copies[0]} is readable: replace it by hand" if copies else ""
            return Finding(image, problem, f"{detail}{hint}")
        found, expected = _format(path), self.expected_format(image)
        if expected and found != expected:
            return Finding(image, OTHER_FORMAT, f"its content is {found}", image)
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
        is_nested = os.path.dirname(found) != os.path.dirname(image)
        return Finding(image, NESTED if is_nested else OTHER_ENDING, f"it is {found}", found)

    def _candidates(self, image: str) -> Iterator[str]:
        """Files that could be the image, but are not at its path, nor another image's."""
        parent, stem = os.path.split(os.path.splitext(image)[0])
        for place in self.places[parent]:
            for name in sorted(self.names[place].get(stem, ())):
                candidate = f"{place}/{name}" if place else name
                if candidate not in self.images:
                    yield candidate

    def _readable(self, image: str) -> list[str]:
        return [found for found in self._candidates(image) if _trouble(self.folder / found) == NO_TROUBLE]

    def expected_format(self, image: str) -> str | None:
        """The format that the ending of an image's name stands for."""
        return self.endings.get(os.path.splitext(image)[1].lower())


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
        The finding, fixed; or with another detail, if that would overwrite a file, or the system refuses it.
    """
    path, found = images.folder / finding.image, images.folder / finding.found
    expected = images.expected_format(finding.image)
    try:
        if expected is None or _format(found) == expected:
            path.parent.mkdir(parents=True, exist_ok=True)
            _rename(found, path)
            done = f"renamed from {finding.found}"
        else:
            kept = _keep_under_own_ending(found) if found == path else found
            _reencode(kept, path, expected, replaces=found == path)
            done = f"re-encoded from {kept.relative_to(images.folder).as_posix()}"
    except FileExistsError as error:
        existing = Path(error.filename2 or error.filename).relative_to(images.folder).as_posix()
        return replace(finding, detail=f"{finding.detail}, but {existing} exists already: rename one by hand")
    except (PermissionError, NotADirectoryError) as error:
        place = Path(error.filename2 or error.filename).parent
        return replace(finding, detail=f"{finding.detail}, but {place} cannot be changed: {error.strerror}")
    return replace(finding, detail=done, is_fixed=True)


def _rename(old: Path, new: Path) -> None:
    """Renames without ever overwriting: `os.rename` would, of a file that has appeared since."""
    if old.is_symlink():
        os.symlink(os.path.realpath(old), new)  # it may have been relative to its folder
    else:
        _link(old, new)
    old.unlink()


def _link(old: Path, new: Path) -> None:
    """Gives a file a second name that no file has."""
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links, such as exFAT: a copy, which appears under its name when it is whole
        if os.path.lexists(new):
            raise FileExistsError(None, "exists", str(old), None, str(new)) from None
        with _unfinished(new, like=old) as unfinished:
            shutil.copyfile(old, unfinished)
            unfinished.replace(new)


def _keep_under_own_ending(path: Path) -> Path:
    """A second name for a file, with the ending of its format."""
    kept = path.with_suffix(f".{_format(path).lower()}")
    if not (kept.exists() and _same_content([path, kept])):
        _link(path.resolve(), kept)
    return kept


def _reencode(old: Path, new: Path, image_format: str, replaces: bool) -> None:
    """Writes a copy in another format; `replaces` a second name of the same file."""
    image = read_image(old, str(old))
    new.parent.mkdir(parents=True, exist_ok=True)
    with _unfinished(new, like=old) as unfinished:
        image.save(unfinished, image_format, **ENCODING)
        if replaces:
            unfinished.replace(new)
        else:
            _link(unfinished, new)


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
    findings = [finding for finding in findings if finding]
    findings = _without_shared(findings)
    if not fix:
        return findings
    fixable = [finding for finding in findings if finding.problem in FIXABLE]
    repaired = _in_threads(lambda finding: repair(finding, images), fixable, threads, "Renaming images", progress)
    by_image = {finding.image: finding for finding in repaired}
    return [by_image.get(finding.image, finding) for finding in findings]


def _without_shared(findings: list[Finding]) -> list[Finding]:
    """Two images, such as a.jpg and a.png, may both be missing where there is one a.gif: neither gets it."""
    wanted = Counter(finding.found for finding in findings)
    return [
        replace(finding, problem=AMBIGUOUS, detail=f"{finding.found} could be several images", found=None)
        if finding.found and wanted[finding.found] > 1
        else finding
        for finding in findings
    ]


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
