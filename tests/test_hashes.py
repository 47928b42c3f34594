"""Records and artifacts are made anew when their own code changes, and only then."""

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

from inference_lib.backends import BACKENDS
from inference_lib.support import hashes
from inference_lib.support.hashes import ROOT, imports_of, module_hash, sources_of

SOURCES = {
    "root.py": "from library.inner import helper\n\ndef late():\n    import library.lazy\n",
    "inner/__init__.py": "from library.inner import unrelated\n",
    "inner/helper.py": "import ast\nfrom library.inner.deep import x\n",
    "inner/deep.py": "from library import root\n",
    "inner/unrelated.py": "",
    "lazy.py": "",
}


def test_imports_are_followed_wherever_they_stand(tmp_path: Path) -> None:
    for name, text in SOURCES.items():
        file = tmp_path / "library" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = sources_of("library.root", root=tmp_path / "library")
    assert set(found) == {"library.root", "library.inner.helper", "library.inner.deep", "library.lazy"}
    assert found["library.inner.deep"] == SOURCES["inner/deep.py"].encode()


def test_a_message_in_other_words_makes_nothing_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "inference_lib.measure.rounds", "inference_lib.seam.build"
    before, sources = module_hash(*asked), sources_of(*asked)
    for name, same in (("support.errors", True), ("support.failures", True), ("support.files", False)):
        changed = sources | {f"inference_lib.{name}": b"other words"}
        assert changed.keys() == sources.keys()
        monkeypatch.setattr(hashes, "sources_of", lambda *_, changed=changed: changed)
        module_hash.cache_clear()
        assert (module_hash(*asked) == before) == same
    module_hash.cache_clear()


def test_the_imports_found_are_those_that_python_finds() -> None:
    def of_the_library(statements: Iterable[ast.AST]) -> list[str]:
        lines = (ast.unparse(each) for each in statements if isinstance(each, ast.Import | ast.ImportFrom))
        return sorted(line for line in lines if ROOT.name in line)

    for file in ROOT.rglob("*.py"):
        source = file.read_text()
        assert of_the_library(imports_of(source)) == of_the_library(ast.walk(ast.parse(source))), file


def test_a_name_that_a_package_hands_out_leads_to_the_module_that_defines_it(tmp_path: Path) -> None:
    sources = {
        "root.py": "from library.seam import Asked, made_here\n",
        "seam/__init__.py": (
            "from library.seam.asked import Asked\nfrom library.seam.other import Other\n"
            "from library.seam import nothing\ndef made_here(): ...\n"
        ),
        "seam/asked.py": "from library.zoo import Animal as Pet\n",
        "seam/other.py": "",
        "zoo/__init__.py": "from library.zoo.animals import Cat as Animal\n",
        "zoo/animals.py": "",
    }
    for name, text in sources.items():
        file = tmp_path / "library" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = sources_of("library.root", root=tmp_path / "library")
    assert set(found) == {"library.root", "library.seam.asked", "library.zoo.animals"}
    assert set(sources_of("library.seam.nothing", root=tmp_path / "library")) == set()


def test_what_a_measurement_asks_of_the_seam_is_part_of_it() -> None:
    found = sources_of("inference_lib.backends.onnxruntime")
    assert {f"inference_lib.seam.{name}" for name in ("workload", "artifact", "precision", "model")} <= set(found)
    assert "inference_lib.zoo.networks" in found


def test_the_timer_is_part_of_a_measurement_and_a_figure_is_not() -> None:
    found = sources_of("inference_lib.measure.cell", "inference_lib.backends.onnxruntime")
    assert {"inference_lib.measure.timing", "inference_lib.backends.shared.cuda"} <= set(found)
    assert not {name for name in found if name.startswith(("inference_lib.report.plots", "inference_lib.lab"))}
    assert "inference_lib.backends.tvm.backend" not in found


@pytest.mark.parametrize("name", BACKENDS)
def test_every_file_of_a_backend_is_part_of_what_its_artifacts_were_made_by(name: str) -> None:
    """But for the search for TVM's schedules: what it found is part of them."""
    module = type(BACKENDS[name]).export.__module__
    *folder, file = module.split(".")[1:]
    beside = [path.stem for path in ROOT.joinpath(*folder).glob("*.py")] if folder != ["backends"] else [file]
    wanted = {".".join([ROOT.name, *folder, stem]) for stem in {*beside} - {"__init__", "tuning"}}
    assert module in wanted
    assert wanted <= set(sources_of(module))
