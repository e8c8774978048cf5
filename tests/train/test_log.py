"""A run's log is read whatever has become of it, and damaged lines are kept apart."""

import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from wsicl_jax.train.log import RunLog, read_log

ODD = {
    "a number": b"5",
    "a list": b"[1]",
    "no JSON": b'{"step": 3, "lo',
    "no text": b'{"step": 3, "\xff": 1}',
    "no step": b'{"loss": 1.0}',
    "a step of text": b'{"step": "3"}',
    "a value of text": b'{"step": 3, "loss": "x"}',
    "a key twice": b'{"step": 3, "step": 4}',
}


def written(run, odd: bytes) -> bytes:
    lines = [json.dumps({"step": step, "loss": float("nan")}).encode() for step in (1, 2, 4)]
    lines.insert(2, odd)
    (run / "log.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return odd


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_a_damaged_line_is_set_aside_with_a_warning_and_the_run_goes_on(tmp_path, odd):
    written(tmp_path, odd)
    with pytest.warns(UserWarning, match=r"log\.jsonl has 1 damaged lines \(3\), .* skipped"):
        assert [entry["step"] for entry in read_log(tmp_path)] == [1, 2, 4]
    with (
        pytest.warns(UserWarning, match=r"\(3\), which are moved to log\.damaged\.jsonl"),
        RunLog(tmp_path, 2, leader=True) as log,
    ):
        log.write(3, {"loss": 0.5})
    assert [entry["step"] for entry in read_log(tmp_path)] == [1, 2, 3]
    assert (tmp_path / "log.damaged.jsonl").read_bytes() == odd + b"\n"


def test_a_last_line_that_was_cut_off_is_passed_over_without_a_word(tmp_path, recwarn):
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    assert read_log(tmp_path) == [{"step": 1}]
    assert not recwarn


def test_a_line_longer_than_any_entry_is_damaged(tmp_path):
    with RunLog(tmp_path, 0, leader=True) as log:
        log.write(1, {"loss": 1.0})
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 1' + " " * 2**20 + '}\n{"step": 2, "loss": 0.5}\n')
    with pytest.warns(UserWarning, match="damaged"):
        assert [entry["step"] for entry in read_log(tmp_path)] == [2]


def test_a_log_does_not_import_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from wsicl_jax.train.log import RunLog\n"
        f"with RunLog(Path({str(tmp_path)!r}), 0, leader=True) as log:\n"
        "    log.write(1, {'loss': 1.0})\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pictures_go_to_tensorboard_but_not_again_for_a_repeated_evaluation(tmp_path):
    png = (Path(__file__).parents[2] / "docs/images/demo_segmentations.png").read_bytes()
    for done, count in ((0, 1), (1, 0)):
        with RunLog(tmp_path, done, leader=True) as log:
            log.write(1, {"dice": 0.5}, {"pictures/a": png})
        (board,) = (tmp_path / "tensorboard").iterdir()
        images = [v.image for v in tensorboard_values(board) if v.tag == "pictures/a"]
        assert [image.encoded_image_string for image in images] == [png] * count
        for image in images:
            assert (image.width, image.height) == Image.open(io.BytesIO(png)).size
        board.unlink()  # a start in the same second would write the same file


def tensorboard_values(file: Path) -> list:
    """All values in a file of TensorBoard, whose records are length, checksum, event, checksum."""
    content, values = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        values += Event.FromString(content[12 : 12 + length]).summary.value
        content = content[16 + length :]
    return values
