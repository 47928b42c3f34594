"""Files for others' servers: Docker, Kubernetes, KubeRay, Triton. None of them runs here; what can be checked is."""

import os
import re
from pathlib import Path

import pytest
import yaml

from inference_lib.cli import main, parser
from inference_lib.support import paths
from inference_lib.support.errors import CourseError

DEPLOY = paths.ROOT / "deploy"
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


def containers(document: dict) -> list[dict]:
    """Return the containers of all pods in a manifest."""
    if isinstance(document, dict):
        here = document.get("containers", [])
        return here + [found for value in document.values() for found in containers(value)]
    return [found for value in document for found in containers(value)] if isinstance(document, list) else []


def instructions() -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text()).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


def test_the_dockerfile_copies_what_there_is_and_starts_what_the_command_line_knows() -> None:
    found = instructions()
    assert {name for name, _ in found} <= INSTRUCTIONS
    assert found[0][0] == "FROM"
    for _, arguments in (each for each in found if each[0] == "COPY"):
        assert all((paths.ROOT / source).exists() for source in arguments.split()[:-1])
    started = [yaml.safe_load(arguments) for name, arguments in found if name in ("ENTRYPOINT", "CMD")]
    words = [word for each in started for word in each]
    (installed,) = re.findall(r"apt-get install (.*?) &&", " ".join(said for name, said in found if name == "RUN"))
    assert "wget" in installed.split()  # python:3.12-slim has none, and KubeRay's probes call it in the container
    assert words[:3] == ["python", "-m", "inference_lib"]
    options = parser(words[3:]).parse_args(words[3:])
    assert (options.host, options.device, options.model) == ("0.0.0.0", "cuda", "resnet18")


def test_the_kubernetes_manifest_hangs_together() -> None:
    deployment, service = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    assert (deployment["apiVersion"], deployment["kind"], service["kind"]) == ("apps/v1", "Deployment", "Service")
    pod = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"] == service["spec"]["selector"]
    (container,) = containers(deployment)
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in named
    assert service["spec"]["ports"][0]["targetPort"] in named
    words = ["serve", *container["args"]]
    assert parser(words).parse_args(words).port == named["http"]
    from inference_lib.serve.local_engine import GRACE_S

    assert pod["spec"]["terminationGracePeriodSeconds"] > GRACE_S + 5


def test_the_kuberay_manifest_is_one_that_ray_accepts() -> None:
    ray = pytest.importorskip("ray")
    from ray.serve.schema import ServeDeploySchema

    from inference_lib.serve import ray_engine

    manifest = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    assert manifest["spec"]["rayClusterConfig"]["rayVersion"] == ray.__version__
    config = ServeDeploySchema.model_validate(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    (application,) = config.applications
    module, _, function = application.import_path.partition(":")
    assert module == ray_engine.__name__
    bound = getattr(ray_engine, function)(application.args)
    assert bound is not None
    assert all("RAY_USAGE_STATS_ENABLED" in str(container["env"]) for container in containers(manifest))
    with pytest.raises(TypeError, match="max_bach"):
        getattr(ray_engine, function)(application.args | {"max_bach": 3})


def test_a_triton_repository_has_the_model_and_a_configuration_that_parses(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from google.protobuf import text_format
    from google.protobuf.empty_pb2 import Empty

    options = ["--device", "cpu", "--output", str(root), "--triton", str(tmp_path), "--max-batch", "6"]
    assert main(["export", "onnxruntime", "vanilla_cnn", *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "vanilla_cnn")
    text = (tmp_path / "vanilla_cnn" / "config.pbtxt").read_text()
    text_format.Parse(text, Empty(), allow_unknown_field=True)  # the syntax; Triton's schema is in no package here
    with pytest.raises(text_format.ParseError):
        text_format.Parse(text.replace("}", "", 1), Empty(), allow_unknown_field=True)
    assert 'input { name: "images" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] }' in text
    assert 'output { name: "logits" data_type: TYPE_FP32 dims: [ 10 ] }' in text
    assert "max_batch_size: 6" in text
    assert "max_queue_delay_microseconds: 2000" in text
    assert re.findall(r"batch_size: (\d+) inputs", text) == ["1", "2", "3", "4", "5", "6"]
    model = tmp_path / "vanilla_cnn" / "1" / "model.onnx"
    assert model.stat().st_size > 3e6
    whole = model.read_bytes()
    with model.open("rb") as reader:  # a server that loads it while it is written again
        start = reader.read(1000)
        assert main(["export", "onnxruntime", "vanilla_cnn", *options]) == 0
        assert start + reader.read() == whole
        assert os.fstat(reader.fileno()).st_ino != model.stat().st_ino


def test_triton_takes_onnx_files_with_an_open_batch() -> None:
    from onnx import TensorProto, helper

    from inference_lib.serve.triton import config

    fixed = helper.make_tensor_value_info("images", TensorProto.FLOAT, [4, 3, 8, 8])
    graph = helper.make_graph([], "g", [fixed], [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [4, 2])])
    with pytest.raises(CourseError, match="fixed at 4"):
        config("m", graph, 8, 0.0)


def test_an_export_that_is_no_onnx_file_is_refused(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--device", "cpu", "--output", str(root), "--triton", str(tmp_path)]
    assert main(["export", "pytorch", "vanilla_cnn", *options]) == 1
    assert "holds no model.onnx; Triton takes an export of `onnxruntime`" in capsys.readouterr().err
