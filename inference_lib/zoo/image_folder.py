"""A folder of pictures, a class in each of its folders: found, split, and decoded as a person sees them.

``DIR/train/CLASS/*`` and ``DIR/test/CLASS/*``, or ``DIR/CLASS/*`` alone, of which a part is set aside by a seed. It is
what torchvision's ``ImageFolder`` reads. Decoding, resizing and normalizing pictures is done here and nowhere else.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Self

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, model_validator

from inference_lib.support.errors import CourseError, first_line

FORMATS = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))

READERS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Of Pillow: a file is what its content says, whatever its name; that of PostScript would start another program."""

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""In a class's name: controls, such as the end of a line, and what is no UTF-8; weights and tables hold neither."""

MOST_PIXELS = 100_000_000
"""A picture of more is refused: decoded, it would take a third of a gigabyte, and it may be made to take more."""

TEST_PART = 0.2
"""Of the pictures of a class where no test set stands apart."""

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""Of a TIFF: two tags, and a value of the second."""

# Of Pillow: about odd tags, and sizes that are looked at here. Silence for the time of a call would be for all threads
# alike, and might outlast them.
warnings.filterwarnings("ignore", module=r"PIL\.")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TooManyPixelsError(CourseError):
    """A picture is so large that it is not decoded."""


class Preprocessing(BaseModel, frozen=True, extra="forbid"):
    """The figures by which a picture becomes a model's input; they are kept with the weights."""

    height: PositiveInt
    width: PositiveInt
    channels: Literal[1, 3] = 3
    """Three for colours, one for grey."""
    mean: tuple[float, ...] = (0.0,)
    """Of each channel, in 0..1; one figure for all, too. Subtracted, then divided by ``std``."""
    std: tuple[PositiveFloat, ...] = (1.0,)
    margin: Annotated[float, Field(ge=1)] = 1.0
    """How much larger than the input the picture is made before its middle is cut out: 256 / 224 for ImageNet."""

    @model_validator(mode="after")
    def _a_figure_for_each_channel(self) -> Self:
        if not {len(self.mean), len(self.std)} <= {1, self.channels}:
            raise ValueError(f"mean and std have one figure, or {self.channels}")
        return self

    @classmethod
    def of(cls, shape: Sequence[int], **others: Any) -> Self:
        """Return the figures of an input of this shape; ValidationError or TypeError for what is none."""
        return cls.model_validate(dict(zip(("channels", "height", "width"), shape, strict=True)) | others)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the input."""
        return (self.channels, self.height, self.width)


@dataclass(frozen=True)
class Pictures:
    """The files of one split and the places of their classes, in an order drawn by a seed."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    def first(self, count: int | None) -> "Pictures":
        """Return the first ``count``, all where that is None."""
        return Pictures(self.files[:count], self.labels[:count])


@dataclass(frozen=True)
class ImageFolder:
    """What lies in a folder: the classes, in the order of their names, and the pictures of both splits."""

    class_names: tuple[str, ...]
    train: Pictures
    test: Pictures


def scan(folder: Path, seed: int = 0) -> ImageFolder:
    """Return what lies in ``folder``. The same names and the same seed give the same split and order everywhere.

    Raise CourseError where there is no such folder, or its layout is another; the line says where.
    """
    if not folder.is_dir():
        raise CourseError(f"{folder} is no folder; give one that holds train/CLASS and test/CLASS, or CLASS alone")
    splits = {name: _classes(folder / name) for name in ("train", "test") if (folder / name).is_dir()}
    if "test" in splits:
        train, test = splits.get("train", {}), splits["test"]
    else:
        whole = folder / "train" if splits else folder
        train, test = _divided(whole, splits.get("train") or _classes(whole), seed)
    names = tuple(train or test)
    if stray := [name for name in test if name not in names]:
        raise CourseError(f"{folder / 'test'} has the class {stray[0]!r}, which {folder / 'train'} lacks; add it there")
    if missing := [name for name in names if name not in test]:
        raise CourseError(f"{folder / 'test'} has no pictures of the class {missing[0]!r}; move some of train's there")
    return ImageFolder(names, *(_shuffled(names, part, seed) for part in (train, test)))


Classes = dict[str, list[Path]]
"""The pictures of each class, both in the order of their names."""


def _divided(folder: Path, classes: Classes, seed: int) -> tuple[Classes, Classes]:
    """Set a part of each class aside for testing, one picture at least."""
    if alone := [name for name, files in classes.items() if len(files) < 2]:
        raise CourseError(f"{folder / alone[0]} has one picture; with none for training or none for testing, add some")
    train, test = Classes(), Classes()
    for name, files in classes.items():
        order = np.random.default_rng(seed).permutation(len(files))
        aside = max(1, round(TEST_PART * len(files)))
        test[name], train[name] = [files[i] for i in order[:aside]], [files[i] for i in order[aside:]]
    return train, test


def _shuffled(names: Sequence[str], classes: Classes, seed: int) -> Pictures:
    """Mix the classes: the first pictures of a split show all of them."""
    found = [(path, names.index(name)) for name, files in classes.items() for path in files]
    order = np.random.default_rng(seed).permutation(len(found))
    return Pictures(tuple(found[i][0] for i in order), tuple(found[i][1] for i in order))


def _classes(folder: Path) -> Classes:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        few = "one class" if names else "no class"
        raise CourseError(f"{folder} has {few}; put the pictures of each class into a folder of its own there")
    if odd := [name for name in names if UNPRINTABLE.search(name)]:
        raise CourseError(f"{folder} has a class whose name cannot be printed, {odd[0]!r}; rename the folder")
    classes = {name: sorted(_pictures(folder / name)) for name in names}
    if empty := [name for name, files in classes.items() if not files]:
        kinds = ", ".join(sorted(kind.lstrip(".") for kind in FORMATS))
        raise CourseError(f"{folder / empty[0]} has no pictures ({kinds}); add some or remove the folder")
    return classes


def _pictures(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the pictures in ``folder`` and below it, links followed."""
    if folder.resolve() in above:
        raise CourseError(f"{folder} is a link that turns in a circle; remove it")
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _pictures(entry, (*above, folder.resolve()))
        elif entry.suffix.lower() in FORMATS:
            yield entry


def shape_of(text: str) -> tuple[int, ...]:
    """Return the sizes in ``text``, such as ``3x160x160``; raise CourseError where these are none."""
    sizes = text.lower().split("x")
    if not all(size.isdecimal() and len(size) < 10 and int(size) > 0 for size in sizes):
        raise CourseError(f"{text[:40]!r} is no input shape; write the sizes without the batch, such as 3x160x160")
    shape = tuple(map(int, sizes))
    if prod(shape) > MOST_PIXELS:
        raise CourseError(f"an input of {text} takes more memory than there is; give a smaller --input-shape")
    return shape


def shown(shape: Iterable[int]) -> str:
    """Return ``shape`` as it is typed."""
    return "x".join(map(str, shape))


# One picture


def prepare(path: Path, figures: Preprocessing) -> np.ndarray:
    """Return the input (float32, channels x height x width) that the picture in ``path`` becomes.

    Raise CourseError for a file that cannot be read as a picture.
    """
    return normalize(fitted(decode(path), figures), figures)


def decode(
    source: Path | BinaryIO,
    formats: tuple[str, ...] = READERS,
    most_pixels: int = MOST_PIXELS,
    small_grey: tuple[int, int] | None = None,
) -> Image.Image:
    """Return the picture in a file as a person sees it, in 8 bits: colours or grey, upright, on a white ground.

    Of several frames it is the first.

    Args:
        source: the file, or its path.
        formats: those that are read, by Pillow's names.
        most_pixels: a picture of more is refused.
        small_grey: grey will do, in no less than this width and height: a JPEG can be decoded at an eighth of its size.

    Raises:
        TooManyPixelsError: there are more than ``most_pixels``, or than Pillow decodes.
        CourseError: the file cannot be read.

    """
    try:
        with Image.open(source, formats=formats) as image:
            if image.width * image.height > most_pixels:
                raise TooManyPixelsError(f"{source} has {image.width} x {image.height} pixels; make it smaller")
            if small_grey:
                image.draft("L", small_grey)
            ImageOps.exif_transpose(image, in_place=True)  # a copy would take as much again
            return as_seen(image, *_levels(image))
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"{source} has more pixels than can be decoded safely; make it smaller") from error
    except CourseError:
        raise
    except Exception as error:  # Pillow's readers raise what they like: SyntaxError, struct.error, ...
        said = getattr(error, "strerror", None) or first_line(str(error))
        if isinstance(error, Image.UnidentifiedImageError):
            said = "it is no picture"
        raise CourseError(f"{source} cannot be read: {said or type(error).__name__}") from error


def _levels(image: Image.Image) -> tuple[int, bool]:
    """Return the largest level of grey in more than 8 bits, and whether zero is white: Pillow leaves these to others.

    Scanners and X-ray detectors write 10 to 16 bits into a TIFF, white or black first.
    """
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    return 2 ** min(bits, 16) - 1, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def as_seen(image: Image.Image, largest: int = 65535, white_is_zero: bool = False) -> Image.Image:
    """Return ``image`` in 8 bits, in colours or grey, on a white ground; wider ranges of grey are brought to 0..255.

    Of integers, ``largest`` is the end of that range; ``white_is_zero`` says which end is white.
    """
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image)
        seen = _eight_bits(levels, largest)
        if white_is_zero:
            seen = 255 - seen
        clear = image.info.get("transparency")  # in a PNG, one level of grey may be
        return Image.fromarray(seen if clear is None else np.where(levels == clear, np.uint8(255), seen))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _eight_bits(levels: np.ndarray, largest: float) -> np.ndarray:
    """Return grey levels of another range as 8 bits: floats are 0..1 unless some are larger."""
    if levels.dtype.kind == "f":
        largest = 1.0 if levels.max(initial=0) <= 1 else 255.0 if levels.max() <= 255 else 65535.0
    return np.rint(np.clip(np.nan_to_num(levels), 0, largest) * (255 / largest)).astype(np.uint8)


def fitted(image: Image.Image, figures: Preprocessing) -> np.ndarray:
    """Return the middle of ``image``, in the input's proportions and size (uint8, channels x height x width)."""
    image = image.convert("L" if figures.channels == 1 else "RGB")
    size, border = (figures.width, figures.height), (1 - 1 / figures.margin) / 2
    pixels = np.array(ImageOps.fit(image, size, Image.Resampling.BILINEAR, border))
    return pixels[None] if figures.channels == 1 else pixels.transpose(2, 0, 1)


def normalize(pixels: np.ndarray, figures: Preprocessing) -> np.ndarray:
    """Return ``pixels`` (uint8, ... x channels x height x width) as the model reads them (float32)."""
    mean, std = (np.array(value, np.float32).reshape(-1, 1, 1) for value in (figures.mean, figures.std))
    return np.ascontiguousarray((pixels.astype(np.float32) / 255 - mean) / std)


# Many pictures


def readable(pictures: Pictures, *, skip_unreadable: bool = False) -> Pictures:
    """Return those of ``pictures`` that can be decoded; raise CourseError as ``load`` does."""
    return _each(pictures, lambda path: decode(path) and None, skip_unreadable)[0]


def load(pictures: Pictures, figures: Preprocessing, *, skip_unreadable: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures at the input's size (uint8, N x channels x height x width), and their labels (int64, N).

    They are not normalized yet: in 8 bits they take a quarter of the memory. Raise CourseError, which names the first
    and counts them, where some cannot be read and are not to be skipped.
    """
    kept, arrays = _each(pictures, lambda path: fitted(decode(path), figures), skip_unreadable)
    return np.stack(arrays), np.array(kept.labels, np.int64)


def _each(pictures: Pictures, work: Callable[[Path], Any], skip: bool) -> tuple[Pictures, list[Any]]:
    """Return the pictures for which ``work`` raised nothing, and what it returned for them."""

    def attempt(path: Path) -> Any:
        try:
            return work(path)
        except CourseError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(attempt, pictures.files))
    bad = [result for result in found if isinstance(result, CourseError)]
    if bad and (not skip or len(bad) == len(pictures)):
        others = f", nor can {len(bad) - 1} more of {len(pictures)}" if len(bad) > 1 else ""
        remedy = "" if skip else ", or leave such files out with --skip-unreadable"
        raise CourseError(f"{bad[0]}{others}; mend or delete it{remedy}")
    kept = [place for place, result in enumerate(found) if not isinstance(result, CourseError)]
    left = Pictures(tuple(pictures.files[i] for i in kept), tuple(pictures.labels[i] for i in kept))
    return left, [found[i] for i in kept]
