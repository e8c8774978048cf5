"""Times what a person waits for on the page: from a click to the mask over the image."""

import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from rich.console import RenderableType
from rich.table import Table

from wsicl_jax.client import Client
from wsicl_jax.config import ServeConfig, SynthConfig
from wsicl_jax.data.formats.writing import write_label_map
from wsicl_jax.data.synthesis.cohort import sample_cohort
from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.geometry.grids import resize, resize_nearest
from wsicl_jax.serve.app import make_app
from wsicl_jax.serve.engine import KeepingSegmenter
from wsicl_jax.serve.service import Service
from wsicl_jax.tools.bench.machine import machine

_COARSE = 64
"""Sides of the synthetic subjects before they are resized to the measured shape."""

_TARGET = "target.nii.gz"


def bench_serve(
    network: str,
    shape: Shape3,
    *,
    contexts: int,
    repeats: int,
    show: Callable[[RenderableType], None],
) -> dict[str, Any]:
    """Show the seconds of a correction on a target of this shape; return them for JSON.

    Service and client are on this machine and speak HTTP. Context images are subjects of one
    synthetic cohort, of the same shape, with a box on a slice. Each run adds a point on the
    target, segments it and fetches the label map. The first segmentation reads all images, and is
    reported apart; the network is compiled before.

    Raises:
        CheckpointError: there is no such network.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        boxes = _write_images(folder, shape, contexts)
        service = Service(folder, network, KeepingSegmenter.load(network), ServeConfig())
        with _listening(service) as address:
            client = Client(address)
            session = client.new_session()
            for image, box in boxes.items():
                session.use(image, "context")
                session.add_box(image, list(zip(box.start, box.stop, strict=True)))
            session.use(_TARGET, "target")
            service.queue.wait_until_ready()
            begin = time.perf_counter()
            session.segment()
            first = time.perf_counter() - begin
            runs = []
            rng = np.random.default_rng(0)
            for _ in range(repeats):
                point = rng.uniform(0.4, 0.6, 3) * shape
                start = time.perf_counter()
                session.add_point(_TARGET, point)
                saved = time.perf_counter()
                session.segment()
                segmented = time.perf_counter()
                session.label_map(_TARGET)
                end = time.perf_counter()
                runs.append(
                    {
                        "saving the prompt": saved - start,
                        "segmenting": segmented - saved,
                        "fetching the label map": end - segmented,
                        "total": end - start,
                    }
                )
    show(machine())
    show(_table(runs, first))
    return {
        "machine": machine(),
        "network": network,
        "shape": list(shape),
        "contexts": contexts,
        "first_seconds": first,
        "seconds": runs,
    }


def _write_images(folder: Path, shape: Shape3, contexts: int) -> dict[str, Box]:
    """Write context images and the target; returns a box on each context image."""
    cohort = sample_cohort((0,), (_COARSE,) * 3, SynthConfig())
    boxes = {}
    for number in range(contexts + 1):
        image, label = cohort.subject(number)
        noise = np.random.default_rng(number).integers(-10, 11, shape, dtype=np.int16)
        voxels = (1000 * resize(image, shape)).astype(np.int16) + noise
        name = f"context_{number}.nii.gz" if number < contexts else _TARGET
        write_label_map(folder / name, voxels - voxels.min(), np.eye(4), {})
        if number < contexts:
            value = int(np.bincount(label.ravel())[1:].argmax()) + 1
            mask = resize_nearest(label, shape) == value
            around = Box.around(mask)
            assert around is not None
            middle = (around.start[2] + around.stop[2]) // 2
            boxes[name] = Box((*around.start[:2], middle), (*around.stop[:2], middle + 1))
    return boxes


@contextmanager
def _listening(service: Service) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = uvicorn.Config(make_app(service), log_config=None)
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _table(runs: list[dict[str, float]], first: float) -> Table:
    table = Table("a correction", title="From a click to the mask")
    table.add_column("median s", justify="right")
    table.add_column("spread", justify="right")
    for stage in runs[0] if runs else ():
        seconds = [run[stage] for run in runs]
        if stage == "total":
            table.add_section()
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        table.add_row(stage, f"{statistics.median(seconds):.2f}", spread)
    table.add_section()
    table.add_row("first segmentation, which reads the images", f"{first:.2f}", "")
    return table
