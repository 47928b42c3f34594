"""The application through ASGI, without a socket: what is answered, what is refused, and how."""

import asyncio
import io
import random
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import Told, ask, asked, picture

from inference_lib.seam.pictures import prepare_fashion
from inference_lib.serve import application
from inference_lib.serve.application import Application, Limits, Prediction, decode
from inference_lib.serve.local_engine import application as local
from inference_lib.serve.queue import BatchQueue
from inference_lib.zoo.fashion_mnist import preprocess

NAMES = tuple("abcdefghij")
LIMITS = Limits(body_bytes=100_000, under_way=4, timeout_s=2)  # more than a host may halt for


@pytest.fixture(scope="module")
def queue():
    with BatchQueue([Told()]) as made:
        yield made


@pytest.fixture
def app(queue: BatchQueue) -> Application:
    return local(queue, NAMES, LIMITS)


def file_of(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def engine_that(raises: Exception | None = None, never: bool = False) -> Application:
    async def predict(_: np.ndarray) -> Prediction:
        if raises:
            raise raises
        if never:
            await asyncio.sleep(60)
        return Prediction(np.zeros(10), 1)

    async def ready() -> bool:
        return False

    return Application(predict, ready, NAMES, LIMITS)


def held_sideways(size: int, kind: str) -> bytes:
    """Return a picture whose upper left quarter, once it is turned upright, is 7 and the rest 100."""
    pixels, exif = np.full((size, size), 100, np.uint8), Image.Exif()
    pixels[size // 2 :, : size // 2] = 7
    exif[0x0112] = 6  # turn it by 90 degrees clockwise
    return file_of(pixels, kind, exif=exif)


FILES = {
    f"{kind} {'x'.join(map(str, shape))}": file_of(np.full(shape, 7, np.uint8), kind)
    for kind in ("PNG", "JPEG")
    for shape in ((28, 28), (280, 300), (28, 28, 3))
}
FILES |= {
    "grey of 16 bits": file_of(np.full((28, 28), 7 * 257, np.uint16)),
    "transparent": file_of(np.full((28, 28, 4), (0, 0, 0, 248), np.uint8)),  # a white ground shines through
    "sideways": held_sideways(28, "PNG"),
    "sideways, decoded smaller": held_sideways(280, "JPEG"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_picture_file_gets_its_class(app: Application, name: str) -> None:
    status, headers, body = ask(app, path="/classify", body=FILES[name])
    assert (status, body) == (200, b'{"class":"h","index":7,"batch":1}')
    assert headers["content-type"] == "application/json"


def test_raw_bytes_get_the_same(app: Application) -> None:
    assert ask(app, body=picture(3).tobytes())[2] == b'{"class":"d","index":3,"batch":1}'


def test_a_decoded_picture_is_the_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    assert (decode(file_of(pixels)) == pixels).all()


def test_a_file_is_the_picture_that_the_command_predict_sees(tmp_path: Path) -> None:
    body = file_of(np.random.default_rng(0).integers(0, 256, (50, 90, 4), np.uint8))
    (tmp_path / "a.png").write_bytes(body)
    assert (preprocess(decode(body)[None])[0] == prepare_fashion(tmp_path / "a.png")).all()


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/classify", b"", 415, "neither a JPEG nor a PNG"),
        ("/classify", b"GIF89a" + bytes(100), 415, "neither"),
        ("/classify", file_of(np.zeros((28, 28), np.uint8))[:50], 415, "neither"),
        ("/classify", file_of(np.zeros((28, 28), np.uint8), "GIF"), 415, "neither"),
        ("/classify-raw", b"", 400, "784 bytes"),
        ("/classify-raw", bytes(785), 400, "this one 785"),
        ("/classify-raw", bytes(100_001), 413, "longer than 100,000 bytes"),
        ("/classify", [bytes(60_000)] * 9, 413, "longer than"),
        ("/predict", b"", 404, "Not Found"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    app: Application, path: str, body: bytes | list[bytes], status: int, says: str
) -> None:
    found, headers, said = ask(app, path=path, body=body)
    assert found == status
    assert says in said.decode()
    assert said.count(b"\n") == 1
    assert headers["content-type"].startswith("text/plain")


def test_a_small_file_with_too_many_pixels_is_not_unpacked(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "MOST_PIXELS", 1000)
    status, _, said = ask(app, path="/classify", body=file_of(np.zeros((50, 50), np.uint8)))
    assert (status, said) == (413, b"the picture has more than 1,000 pixels; send a smaller one\n")


def test_a_picture_of_more_pixels_than_pillow_decodes_is_no_other_kind_of_file(app: Application) -> None:
    status, _, said = ask(app, path="/classify", body=file_of(np.zeros((14_000, 14_000), bool)))
    assert (status, said) == (413, b"the picture has more than 16,777,216 pixels; send a smaller one\n")


def test_a_get_where_a_picture_is_to_be_posted_is_405(app: Application) -> None:
    assert ask(app, "GET", "/classify")[0] == 405


def test_2000_malformed_requests_get_4xx_and_the_server_lives(app: Application) -> None:
    chance = random.Random(0)
    seeds = [file_of(np.full((28, 28), 5, np.uint8)), file_of(np.full((40, 40), 5, np.uint8), "JPEG"), bytes(784), b""]

    def malformed() -> tuple[str, str, bytes | list[bytes], dict[str, str]]:
        body = bytearray(chance.choice(seeds))
        del body[chance.randrange(len(body) + 1) :]
        for _ in range(chance.randrange(6)):
            if body:
                body[chance.randrange(min(len(body), 40))] = chance.randrange(256)
        path = chance.choice(["/classify", "/classify-raw", "/classify/", "//", "/metrics/x", "/\u2603", "/%00"])
        method = chance.choice(["POST", "POST", "POST", "PUT", "DELETE", "PATCH", "BREW"])
        headers = {"Content-Type": chance.choice(["", "image/png", "text/html", "\xff", "a" * 5000])}
        headers |= {"Content-Length": chance.choice(["-1", "99999999999", "x"]), "Transfer-Encoding": "chunked"}
        parts = [bytes(body[:3]), bytes(body[3:]), b"\0"] if path == "/classify-raw" else bytes(body) or b"\0"
        return method, path, parts, headers

    async def send() -> list[int]:
        return [(await asked(app, *malformed()))[0] for _ in range(2000)]

    statuses = asyncio.run(send())
    well_formed = [status for status in statuses if status == 200]  # a file may survive a change
    assert len(well_formed) < 200
    assert {status // 100 for status in statuses} - {2} == {4}
    assert len({*statuses}) >= 5
    assert ask(app, body=picture(3).tobytes())[0] == 200


def test_a_body_that_ends_early_is_400_and_one_that_does_not_come_408() -> None:
    async def cut_off(hang: bool) -> int:
        sent: list[dict] = []

        async def receive() -> dict:
            if hang:
                await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/classify-raw", "headers": [], "query_string": b""}
        await engine_that()(scope, receive, send)
        return sent[0]["status"]

    assert asyncio.run(cut_off(hang=False)) == 400
    assert asyncio.run(cut_off(hang=True)) == 408


def test_more_requests_under_way_than_may_get_429_and_when_to_come_back() -> None:
    told = Told()
    told.go.clear()
    with BatchQueue([told]) as held:
        app = local(held, NAMES, Limits(under_way=4, timeout_s=5))

        async def together() -> list[tuple[int, dict[str, str], bytes]]:
            tasks = [asyncio.create_task(asked(app, body=bytes(784))) for _ in range(7)]
            await asyncio.sleep(0.2)
            told.go.set()
            return await asyncio.gather(*tasks)

        answers = asyncio.run(together())
    assert sorted(status for status, _, _ in answers) == [200] * 4 + [429] * 3
    refused = next(answer for answer in answers if answer[0] == 429)
    assert int(refused[1]["retry-after"]) >= 1
    assert refused[2] == b"4 requests are under way; try again in 1 s\n"


def test_a_full_queue_is_429_too() -> None:
    told = Told()
    told.go.clear()
    with BatchQueue([told], limit=1) as held:
        app = local(held, NAMES, Limits(timeout_s=0.2))

        async def together() -> list[int]:
            return [status for status, _, _ in await asyncio.gather(*(asked(app, body=bytes(784)) for _ in range(9)))]

        statuses = asyncio.run(together())
        told.go.set()
    assert 429 in statuses
    assert set(statuses) <= {429, 504}  # nobody let the others go


@pytest.mark.parametrize("raises", [RuntimeError("the worker process died (signal 9)"), OSError("gone")])
def test_a_worker_that_died_is_503_and_when_to_come_back(raises: Exception) -> None:
    found, headers, said = ask(engine_that(raises), body=bytes(784))
    assert (found, headers["retry-after"]) == (503, "1")
    assert said == f"the batch was lost ({type(raises).__name__}); try again\n".encode()


def test_an_engine_that_does_not_answer_is_504() -> None:
    assert ask(engine_that(never=True), body=bytes(784))[0] == 504


def test_decoding_that_does_not_end_in_time_is_504_too(queue: BatchQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "decode", lambda _: time.sleep(1) or picture(7))
    status, _, said = ask(local(queue, NAMES, Limits(timeout_s=0.1)), path="/classify", body=b"a picture")
    assert (status, said) == (504, b"no answer within 0.1 s; try again later\n")


def test_a_queue_that_has_ended_is_503_and_not_ready() -> None:
    ended = BatchQueue([Told()])
    app = local(ended, NAMES, LIMITS)
    assert ask(app, "GET", "/ready")[0] == 200
    ended.close()
    assert ask(app, "GET", "/ready")[0] == 503
    assert ask(app, "GET", "/health")[0] == 200
    assert ask(app, body=bytes(784))[0] == 503


def test_metrics_count_answers_by_status(queue: BatchQueue) -> None:
    app = local(queue, NAMES, LIMITS)
    ask(app, body=bytes(784))
    ask(app, body=bytes(784))
    ask(app, body=b"")
    said = ask(app, "GET", "/metrics")[2].decode()
    assert 'answers_total{status="200"} 2.0' in said
    assert 'answers_total{status="400"} 1.0' in said
    assert "batch_size_count 2.0" in said
    assert "under_way 0.0" in said
