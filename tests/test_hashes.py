"""Records and artifacts are made anew when their own code changes, and only then."""

from pathlib import Path

from inference_lib.support.hashes import sources_of

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


def test_the_timer_is_part_of_a_measurement_and_a_figure_is_not() -> None:
    found = sources_of("inference_lib.measure.cell", "inference_lib.backends.onnxruntime")
    assert {"inference_lib.measure.timing", "inference_lib.backends.cuda"} <= set(found)
    assert not {name for name in found if name.startswith(("inference_lib.report.plots", "inference_lib.lab"))}
    assert "inference_lib.backends.tvm.backend" not in found
