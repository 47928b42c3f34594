"""A folder of pictures: what is found in it, and how each picture is seen."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference_lib.backends import get_backend
from inference_lib.measure.plan import Rival, empty_record
from inference_lib.measure.profiles import PROFILES
from inference_lib.seam import Workload, build, find_model, supports
from inference_lib.seam.calibration import Calibration
from inference_lib.seam.folder import with_pictures
from inference_lib.support.errors import CourseError
from inference_lib.zoo import image_folder
from inference_lib.zoo.image_folder import Pictures, Preprocessing, decode, fitted, normalize, prepare, scan

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest forgets what a module asks for when it is imported

SMALL = Preprocessing(height=8, width=8)


def save(path: Path, picture: np.ndarray | Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(path, **options)
    return path


def fill(folder: Path, classes: dict[str, int]) -> Path:
    """Write so many grey pictures of each class, each of its own shade."""
    for name, count in classes.items():
        for number in range(count):
            save(folder / name / f"{number}.png", np.full((10, 12), 5 * number, np.uint8))
    return folder


def files(pictures: Pictures) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in pictures.files}


# Layouts


def test_both_splits_apart_keep_their_pictures_and_the_order_of_class_names(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"b": 3, "a": 2})
    fill(tmp_path / "test", {"b": 1, "a": 2})
    (tmp_path / "train" / "a" / "notes.txt").write_text("no picture")
    found = scan(tmp_path)
    assert found.class_names == ("a", "b")
    assert files(found.train) == {"a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/2.png"}
    assert files(found.test) == {"a/0.png", "a/1.png", "b/0.png"}
    for split in (found.train, found.test):
        assert [found.class_names[label] for label in split.labels] == [path.parent.name for path in split.files]


def test_torchvision_reads_the_same_folder_the_same_way(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    fill(tmp_path / "train", {"β": 2, "猫": 1, "a b": 2})
    fill(tmp_path / "test", {"β": 1, "猫": 1, "a b": 1})
    save(tmp_path / "train" / "a b" / "deeper" / "x.JPG", np.zeros((4, 4), np.uint8), format="jpeg")
    theirs, ours = ImageFolder(tmp_path / "train"), scan(tmp_path)
    assert tuple(theirs.classes) == ours.class_names
    mine = {str(path): label for path, label in zip(ours.train.files, ours.train.labels, strict=True)}
    assert mine == dict(theirs.samples)


def test_one_level_is_split_by_a_seed_the_same_way_everywhere(tmp_path: Path) -> None:
    here, there = (fill(tmp_path / name, {"a": 10, "b": 5}) for name in ("here", "there"))
    one, two, other = scan(here), scan(there), scan(here, seed=1)
    assert [files(one.train), files(one.test)] == [files(two.train), files(two.test)]
    assert [path.name for path in one.test.files] == [path.name for path in two.test.files]
    assert files(one.test) != files(other.test)
    assert files(one.train) & files(one.test) == set()
    assert sorted(path.parent.name for path in one.test.files) == ["a", "a", "b"]
    assert len(one.train) == 12


def test_the_first_test_pictures_show_all_classes(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 2, "b": 2})
    fill(tmp_path / "test", {"a": 40, "b": 40})
    assert set(scan(tmp_path).test.labels[:16]) == {0, 1}


def test_what_is_wrong_with_a_layout_is_one_line(tmp_path: Path) -> None:
    def said(folder: Path) -> str:
        with pytest.raises(CourseError) as error:
            scan(folder)
        assert "\n" not in str(error.value)
        return str(error.value).replace(str(tmp_path), "DIR")

    assert said(tmp_path / "nowhere").startswith("DIR/nowhere is no folder; give one that holds train/CLASS")
    assert said(tmp_path).startswith("DIR has no class; put the pictures of each class into a folder of its own")
    assert said(fill(tmp_path / "one", {"a": 3})).startswith("DIR/one has one class")
    assert said(fill(tmp_path / "few", {"a": 3, "b": 1})).startswith("DIR/few/b has one picture")
    empty = fill(tmp_path / "empty", {"a": 3, "b": 2})
    (empty / "c").mkdir()
    assert said(empty).startswith("DIR/empty/c has no pictures (bmp, gif, jpeg")
    lacks = tmp_path / "lacks"
    fill(lacks / "train", {"a": 2, "b": 2, "c": 2}), fill(lacks / "test", {"a": 1, "b": 1})
    assert said(lacks).startswith("DIR/lacks/test has no pictures of the class 'c'")
    stray = tmp_path / "stray"
    fill(stray / "train", {"a": 2, "b": 2}), fill(stray / "test", {"a": 1, "b": 1, "d": 1})
    assert said(stray).startswith("DIR/stray/test has the class 'd', which DIR/stray/train lacks")
    for number, name in enumerate((b"two\nlines", b"\xff, not UTF-8")):
        odd = fill(tmp_path / f"odd{number}", {"a": 2, os.fsdecode(name): 2})
        assert said(odd).startswith(f"DIR/odd{number} has a class whose name cannot be printed, ")
        assert said(odd).isprintable()
    joined = "क्\u200dष 👩\u200d🔬"  # with letters that join others, and have no shape of their own
    assert scan(fill(tmp_path / "joined", {"a": 2, joined: 2})).class_names == ("a", joined)
    circle = fill(tmp_path / "circle", {"a": 2, "b": 2})
    (circle / "a" / "again").symlink_to(circle / "a")
    assert said(circle).startswith("DIR/circle/a/again is a link that turns in a circle; remove it")


def test_links_that_lead_somewhere_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "data", {"a": 2, "b": 2})
    fill(tmp_path / "elsewhere", {"more": 3})
    (tmp_path / "data" / "b" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    found = scan(tmp_path / "data")
    assert len(found.train) + len(found.test) == 7


# Pictures


COLOURS = np.zeros((6, 4, 3), np.uint8)
COLOURS[:3, :2], COLOURS[3:, :2], COLOURS[:, 2:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "tiff", "webp", "jpeg"])
def test_every_format_shows_the_same_colours(kind: str, tmp_path: Path) -> None:
    exact = {"webp": {"lossless": True}, "jpeg": {"quality": 100, "subsampling": 0}}.get(kind, {})
    path = save(tmp_path / f"picture.{kind}", COLOURS, **exact)
    found = np.asarray(decode(path).convert("RGB")).astype(int)
    assert np.abs(found - COLOURS).max() <= (0 if kind in ("png", "bmp", "tiff", "webp", "gif") else 60)
    assert (found.argmax(2) == COLOURS.argmax(2)).all()


def test_every_mode_is_seen_as_a_person_sees_it(tmp_path: Path) -> None:
    grey = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
    colours = Image.fromarray(COLOURS)

    def seen(name: str, picture: np.ndarray | Image.Image, **options: object) -> np.ndarray:
        return np.asarray(decode(save(tmp_path / name, picture, **options)))

    assert (seen("grey.png", grey) == grey).all()
    assert (seen("bits.png", Image.fromarray(grey > 127)) == np.where(grey > 127, 255, 0)).all()
    assert (seen("16.png", grey.astype(np.uint16) * 257) == grey).all()
    assert (seen("16.tiff", grey.astype(np.uint16) * 257) == grey).all()
    assert (seen("float.tiff", grey.astype(np.float32) / 255) == grey).all()
    assert (seen("palette.png", colours.quantize(4)) == COLOURS).all()
    cmyk = seen("cmyk.tiff", colours.convert("CMYK"))
    assert (cmyk.argmax(2) == COLOURS.argmax(2)).all()


def test_what_is_transparent_shows_a_white_ground(tmp_path: Path) -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = (255, 0, 0, 255)
    found = np.asarray(decode(save(tmp_path / "alpha.png", clear)))
    assert (found[:2] == (255, 0, 0)).all()
    assert (found[2:] == 255).all()
    half = np.full((4, 4, 2), (0, 128), np.uint8)
    assert abs(int(np.asarray(decode(save(tmp_path / "half.png", half)))[0, 0, 0]) - 127) <= 1
    palette = Image.fromarray(COLOURS).quantize(4)
    path = save(tmp_path / "palette.png", palette, transparency=palette.getpixel((3, 0)))
    assert (np.asarray(decode(path))[:, 2:] == 255).all()


def test_a_picture_that_was_held_sideways_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise
    path = save(tmp_path / "phone.png", COLOURS, exif=exif)
    assert (np.asarray(decode(path)) == np.rot90(COLOURS, -1)).all()


@pytest.mark.parametrize("turned", range(2, 9))
def test_every_way_to_hold_a_camera_is_undone(turned: int, tmp_path: Path) -> None:
    turns = Image.Transpose
    stored_as = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = turned
    for kind in ("png", "tiff", "webp"):
        exact = {"lossless": True} if kind == "webp" else {}
        stored = Image.fromarray(COLOURS).transpose(stored_as[turned])
        path = save(tmp_path / f"{turned}.{kind}", stored, exif=exif, **exact)
        assert (np.asarray(decode(path).convert("RGB")) == COLOURS).all()


def test_grey_of_more_than_8_bits_is_as_bright_as_its_maker_meant(tmp_path: Path) -> None:
    grey = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
    path = save(tmp_path / "x-ray.tiff", grey.astype(np.uint16) * 257)
    content = path.read_bytes()
    tag = (262).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    assert content.count(tag) == 1
    path.write_bytes(content.replace(tag + b"\1", tag + b"\0"))  # zero is white, as on a negative
    assert (np.asarray(decode(path)) == 255 - grey).all()
    depth = (258).to_bytes(2, "little") + tag[2:]
    assert content.count(depth + b"\x10") == 1
    strip = content.index((grey.astype(np.uint16) * 257).tobytes())
    few = content.replace(depth + b"\x10", depth + b"\x0c")  # 12 bits a pixel: two pixels lie in three bytes
    path.write_bytes(few[:strip] + b"\xff\xf8\x00" + few[strip + 3 :])
    assert np.asarray(decode(path))[0, :2].tolist() == [255, 128]


def test_a_level_of_16_bits_may_be_transparent(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[500, 257]], np.uint16), transparency=500)
    assert np.asarray(decode(path)).tolist() == [[255, 1]]


def test_another_format_is_not_read_whatever_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(CourseError, match=r"a\.png cannot be read: it is no picture"):
        decode(tmp_path / "a.png")


def test_of_an_animation_the_first_frame_is_seen(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert (np.asarray(decode(tmp_path / "moving.gif").convert("RGB")) == (255, 0, 0)).all()


def test_the_middle_is_taken_in_the_inputs_proportions() -> None:
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 4:20] = 200  # what lies beside the middle is read, too, where the picture shrinks
    assert (fitted(Image.fromarray(wide), Preprocessing(height=4, width=4, channels=1)) == 200).all()
    line = Image.fromarray(np.full((1, 60_000), 7, np.uint8))  # enlarged as a whole, it would have 13 gigapixels
    assert (fitted(line, Preprocessing(height=224, width=224)) == 7).all()
    framed = np.zeros((20, 20), np.uint8)
    framed[2:18, 2:18] = 90
    assert (fitted(Image.fromarray(framed), Preprocessing(height=4, width=4, channels=1, margin=20 / 8)) == 90).all()


def test_grey_is_repeated_and_colours_are_normalized_each(tmp_path: Path) -> None:
    figures = Preprocessing(height=2, width=2, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 2.0))
    found = prepare(save(tmp_path / "a.png", np.full((4, 4), 255, np.uint8)), figures)
    assert found.dtype == np.float32
    assert found.shape == (3, 2, 2)
    assert (found == np.array([1, 1, 0], np.float32).reshape(3, 1, 1)).all()
    assert (normalize(np.zeros((2, 1, 3, 3), np.uint8), Preprocessing(height=3, width=3, channels=1)) == 0).all()


def test_prepared_as_torchvision_prepares_it(tmp_path: Path) -> None:
    from torchvision import models

    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    smooth = Image.fromarray(picture).resize((40, 30)).resize((400, 300), Image.Resampling.BICUBIC)
    path = save(tmp_path / "a.png", smooth)
    usual = models.ResNet18_Weights.DEFAULT.transforms()
    figures = Preprocessing(height=224, width=224, mean=tuple(usual.mean), std=tuple(usual.std), margin=256 / 224)
    assert np.abs(prepare(path, figures) - usual(Image.open(path)).numpy()).mean() < 0.05


# What cannot be read


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    fill(tmp_path / "train", {"a": 4, "b": 4})
    fill(tmp_path / "test", {"a": 4, "b": 4})
    (tmp_path / "test" / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    whole = (tmp_path / "test" / "b" / "1.png").read_bytes()
    (tmp_path / "test" / "b" / "1.png").write_bytes(whole[: len(whole) // 2])
    os.symlink(tmp_path / "gone.png", tmp_path / "test" / "b" / "link.png")
    return tmp_path


def test_a_file_that_cannot_be_read_is_named_counted_and_skipped_only_if_asked(spoilt: Path) -> None:
    test = scan(spoilt).test
    with pytest.raises(CourseError, match=r"cannot be read: .*, nor can 2 more of 9; mend or delete it, or leave"):
        image_folder.readable(test)
    kept = image_folder.readable(test, skip_unreadable=True)
    assert files(kept) == {"a/1.png", "a/2.png", "a/3.png", "b/0.png", "b/2.png", "b/3.png"}
    arrays, labels = image_folder.load(test, SMALL, skip_unreadable=True)
    assert arrays.shape == (6, 3, 8, 8)
    assert labels.tolist() == list(kept.labels)
    none = image_folder.Pictures(tuple(file for file in test.files if file.name == "link.png"), (1,))
    with pytest.raises(CourseError, match=r"link.png cannot be read: .*; mend or delete it$"):
        image_folder.readable(none, skip_unreadable=True)


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"II*\x00\x08\x00\x00\x00\xff\xff", b"BM" + bytes(60), b"RIFF\0\0\0\0WEBP"]
)
def test_no_content_gives_more_than_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(CourseError, match=r"odd.png cannot be read: ") as error:
        decode(tmp_path / "odd.png")
    assert "\n" not in str(error.value)


def test_a_picture_that_would_take_a_gigabyte_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = save(tmp_path / "huge.png", Image.new("1", (20_000, 20_000)))
    with pytest.raises(CourseError, match=r"huge.png has .*pixels.*; make it smaller"):
        decode(path)
    path = save(tmp_path / "large.png", Image.new("1", (12_000, 9_000)))
    with pytest.raises(CourseError, match=r"large.png has 12000 x 9000 pixels; make it smaller"):
        decode(path)


THREADS = """
import sys, warnings
from concurrent.futures import ThreadPoolExecutor
from inference_lib.support.errors import CourseError
from inference_lib.zoo.image_folder import decode

def refused(path):
    try:
        decode(path)
    except CourseError:
        return True

with ThreadPoolExecutor(8) as pool:
    assert all(pool.map(refused, sys.argv[1:] * 400))
warnings.warn("shown", stacklevel=1)
"""


def test_threads_that_decode_show_no_warning_of_pillow_and_hide_no_other(tmp_path: Path) -> None:
    path = save(tmp_path / "large.png", Image.new("1", (12_000, 9_000)))
    done = subprocess.run([sys.executable, "-c", THREADS, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert [line.partition(": ")[2] for line in done.stderr.splitlines()] == ["UserWarning: shown"]


# As a data set


def test_a_model_is_checked_on_the_test_pictures_with_the_labels_it_knows(tmp_path: Path) -> None:
    network = find_model(f"{Path(__file__).with_name('brought.py')}:grey", "1x28x28")
    fill(tmp_path / "ten", {f"c{number}": 5 for number in range(10)})
    model = with_pictures(network, tmp_path / "ten")
    pictures = model.dataset
    assert (pictures.name, pictures.size, len(pictures.class_names)) == ("ten", 10, 10)
    assert sorted(pictures.labels()) == list(range(10))
    out = np.empty((12, 1, 28, 28), np.float32)
    pictures.read(0, out)
    assert (out[10:] == out[:2]).all()  # after the last comes the first again
    assert model.prepare is not None
    assert (out[3] == model.prepare(pictures.pictures["test"].files[3])).all()
    fill(tmp_path / "two", {"a": 5, "b": 5})
    assert with_pictures(network, tmp_path / "two").dataset.labels() is None  # ten outputs, and which are these?


def test_classes_are_matched_by_name_where_the_model_has_names(tmp_path: Path) -> None:
    fill(tmp_path / "some", {"Bag": 5, "Ankle boot": 5})
    labels = with_pictures(find_model("vanilla_cnn"), tmp_path / "some").dataset.labels()
    assert sorted(labels) == [8, 9]
    fill(tmp_path / "others", {"Bag": 5, "Cat": 5})
    assert with_pictures(find_model("vanilla_cnn"), tmp_path / "others").dataset.labels() is None


def test_other_pictures_or_figures_are_another_data_set(tmp_path: Path) -> None:
    folder, model = fill(tmp_path / "data", {"a": 5, "b": 5}), find_model("vanilla_cnn")
    before = with_pictures(model, folder).dataset
    assert with_pictures(model, folder).dataset == before
    save(before.pictures["test"].files[0], np.full((10, 12), 77, np.uint8))
    assert with_pictures(model, folder).dataset.identity != before.identity
    other = find_model(f"{Path(__file__).with_name('brought.py')}:grey", "1x28x28")
    assert with_pictures(other, folder).dataset.identity != with_pictures(model, folder).dataset.identity


def test_a_model_on_other_pictures_has_other_records(tmp_path: Path) -> None:
    """Seen: the row on one folder replaced those on another, and those on Fashion-MNIST."""
    model = find_model("vanilla_cnn")
    on = [
        model,
        *(
            with_pictures(model, fill(tmp_path / name, {"a": count, "b": 5}))
            for name, count in (("one", 5), ("two", 6))
        ),
    ]
    rivals = [Rival("pytorch", Workload(each, 1)) for each in on]
    files = {empty_record(rival, PROFILES["smoke"], "1", "ok").key.file_name for rival in rivals}
    assert len(files) == 3
    assert with_pictures(model, tmp_path / "one").name == on[1].name


def test_a_model_that_reads_no_pictures_says_so(tmp_path: Path) -> None:
    sequence = find_model(f"{Path(__file__).with_name('brought.py')}:sequence", "4x64")
    with pytest.raises(CourseError, match="does not read pictures; leave --data out"):
        with_pictures(sequence, tmp_path)


def test_an_export_in_eight_bits_is_calibrated_with_training_pictures_or_refused(tmp_path: Path) -> None:
    network = find_model(f"{Path(__file__).with_name('brought.py')}:grey", "1x28x28")
    backend = get_backend("onnxruntime")
    refused = supports(backend, Workload(network, 1, "int8"))
    assert refused.reason.endswith("has no pictures to be calibrated with; name some with --data")
    model = with_pictures(network, fill(tmp_path / "data", {f"c{number}": 10 for number in range(10)}))
    assert supports(backend, Workload(model, 1, "int8")).ok
    few = Calibration(images=16)
    (batch,) = few.batches(model)
    training = {path.stat().st_ino for path in model.dataset.pictures["train"].files}
    assert batch.shape == (16, 1, 28, 28)
    assert training.isdisjoint(path.stat().st_ino for path in model.dataset.pictures["test"].files)
    workload = Workload(model, 1, "int8", calibration=few)
    assert backend.stored_precision(build(backend, workload, tmp_path / "artifacts")) == "int8"
    assert sum(map(len, Calibration().batches(model))) == 80  # all there are, where more are asked for
