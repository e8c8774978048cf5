"""One network on many meshes of 8 simulated devices, against one device; run by test_placement.

`eight_devices.py FILE` writes JSON: for each of `FEW_MESHES` the deviations, and what devices
exchange, their FLOPs, augmentation and evaluation. `eight_devices.py FILE every-mesh` writes the
deviations of `MESHES` alone, by a network of one more stage.
"""

import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from wsicl_jax.config import AugmentConfig, config_from_dict
from wsicl_jax.data.augmentation.intensity import augment_intensities
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.distributed.collectives import collective_bytes
from wsicl_jax.distributed.placement import (
    in_order,
    in_parts,
    make_mesh,
    replicated,
    state_placement,
    to_devices,
)
from wsicl_jax.evaluate import predictor as network
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.train.step import make_predict

ONE = "one device"
BATCH, CONTEXTS, GRID, CHANNELS = 8, 8, (16, 4, 8), (4, 8)
DEEPER = {"grid": (32, 4, 8), "channels": (4, 8, 8)}
MESHES = {
    "8 1 1": {},
    "1 8 1": {},
    "2 4 1": {},
    "2 2 2": {},
    "1 1 8": {},
    "4 1 2, parameters cut": {"shard_parameters": True},
    "2 2 2, parts of 3 by stages": {"mini_context": 3, "remat": "stage"},
}
# Each axis by itself, all axes together, and each way to save memory.
FEW_MESHES = ["1 8 1", "1 1 8", "4 1 2, parameters cut", "2 2 2, parts of 3 by stages"]


def experiment(mesh: str, settings: dict, grid=GRID, channels=CHANNELS):
    data, context, space = map(int, mesh.partition(",")[0].split())
    processing = {k: settings[k] for k in ("mini_context", "remat") if k in settings}
    sizes = {"data": data, "context": context, "space": space}
    return config_from_dict(
        {
            "volume": {"grid": grid},
            "model": {"channels": channels, "context": processing},
            "train": {"batch": BATCH},
            "parallel": sizes | {k: v for k, v in settings.items() if k not in processing},
        }
    )


def episodes(grid=GRID) -> Episode:
    rng = np.random.default_rng(0)
    volumes = [
        rng.random((BATCH, *count, *grid, 1), np.float32)
        for count in ((), (), (CONTEXTS,), (CONTEXTS,))
    ]
    weights = rng.random((BATCH, CONTEXTS), np.float32)
    weights[:, -2:] = 0  # so that whole devices have only filled-up contexts
    return Episode(*volumes, weights, np.zeros((BATCH, 1), np.int32))


def augmentation() -> dict:
    """Intensities changed on a mesh that cuts everything: against one device, and exchanges."""

    def change(mesh: str, devices: int, gin: float):
        on_mesh = make_mesh(experiment(mesh, {}), jax.devices()[:devices])
        settings = AugmentConfig().only(invert_image=0.5, scale=0.5, shift=0.5, noise=0.5, gin=gin)
        inputs = (to_devices(episodes(), on_mesh, BATCH), jax.random.key(1))
        changed = jax.jit(lambda batch, key: augment_intensities(batch, key, settings, on_mesh))
        return changed.lower(*inputs), inputs

    changes = {"whole": change("1 1 1", 1, 1.0), "cut": change("2 2 2", 8, 1.0)}
    changes["without gin"] = change("2 2 2", 8, 0.0)
    programs = compiled({name: lowered for name, (lowered, _) in changes.items()})
    whole, cut = (programs[name](*changes[name][1]) for name in ("whole", "cut"))
    before = changes["cut"][1][0]
    deviations = jax.tree.map(lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(), whole, cut)
    moved = np.abs(np.asarray(cut.target) - np.asarray(before.target)).max((1, 2, 3, 4))
    return {
        "deviation": float(max(deviations)),
        "smallest change": float(moved.min()),
        "in place": all(
            x.sharding.is_equivalent_to(y.sharding, x.ndim)
            for x, y in zip(cut, before, strict=True)
        ),
        "exchanged without gin": collective_bytes(programs["without gin"].as_text()),
    }


def parts() -> dict:
    """A batch in parts on a mesh that cuts everything: its rows, their places, exchanges."""
    on_mesh = make_mesh(experiment("2 2 2", {}), jax.devices())
    batch = to_devices(episodes(), on_mesh, BATCH)
    split = jax.jit(lambda batch: in_parts(batch, 2, on_mesh)).lower(batch).compile()
    whole, found = np.asarray(batch.target), np.asarray(split(batch).target)
    rows = [[int(np.argmax((whole == row).all((1, 2, 3, 4)))) for row in part] for part in found]
    numbers = jax.device_put(np.array(rows), replicated(on_mesh))
    return {
        "rows": rows,
        "in order": in_order(numbers, on_mesh).tolist(),
        "shape on a device": split(batch).context_images.addressable_shards[0].data.shape,
        "exchanged": collective_bytes(split.as_text()),
    }


def evaluation() -> dict:
    """Episodes of evaluation spread over the devices, against one device."""
    network._VOXELS_AT_ONCE = 1  # so that 8 episodes run together, one on each device
    config = experiment("1 1 1", {}, **DEEPER)
    graph, parameters = nnx.split(DualBranch(config.model, rngs=nnx.Rngs(0)), nnx.Param)
    # Doubled, so that the outputs depend on the contexts without training.
    model = nnx.merge(graph, jax.tree.map(lambda x: 2 * x, parameters))
    batch = episodes(config.volume.grid)
    shown = [Episode(*(x[i] for x in batch)) for i in range(5)]  # a part that must be filled
    found = [
        Predictor(model, config.volume, jax.devices()[:count]).outputs(shown, [1, 3])
        for count in (1, 8)
    ]
    return {
        "deviation": float(np.abs(found[1] - found[0]).max()),
        "between sizes": float(np.abs(found[0][1] - found[0][0]).max()),
        "at once": Predictor(model, config.volume, jax.devices()).at_once,
    }


class OnMesh:
    """The network on a mesh, with its inputs in place."""

    def __init__(self, config, devices):
        mesh = make_mesh(config, devices)
        graph, parameters = nnx.split(DualBranch(config.model, rngs=nnx.Rngs(0)), nnx.Param)

        self.predict = make_predict(graph, config, mesh)
        self.parameters = jax.device_put(
            parameters, state_placement(parameters, mesh, config.parallel)
        )
        batch = to_devices(episodes(config.volume.grid), mesh, BATCH)
        self.inputs = (self.parameters, batch, jax.random.key(0))

    def gradient(self) -> jax.stages.Lowered:
        """Value, prediction and gradients, not compiled yet."""

        def loss(parameters, batch, key):
            prediction = self.predict(parameters, batch, key)
            return ((prediction - batch.truth) ** 2).mean(), prediction

        return jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(*self.inputs)

    def forward(self) -> jax.stages.Lowered:
        return jax.jit(self.predict).lower(*self.inputs)

    def output_and_gradients(self, gradient) -> tuple[np.ndarray, list[np.ndarray]]:
        (_, output), gradients = gradient(*self.inputs)
        return np.asarray(output), [np.asarray(g) for g in jax.tree.leaves(gradients)]

    def share_of_cut_parameters(self) -> float:
        cut = [not p.sharding.is_fully_replicated for p in jax.tree.leaves(self.parameters)]
        return sum(cut) / len(cut)


def compiled(lowered: dict) -> dict:
    """All of them at once, as compiling takes most of the time here and one core each."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        programs = pool.map(lambda program: program.compile(), lowered.values())
        return dict(zip(lowered, programs, strict=True))


def deviations(meshes: Iterable[str], **sizes) -> dict:
    """Of the output and the gradients on each mesh from those on one device."""
    networks = {
        mesh: OnMesh(experiment(mesh, MESHES[mesh], **sizes), jax.devices()) for mesh in meshes
    }
    networks[ONE] = OnMesh(experiment("1 1 1", {}, **sizes), jax.devices()[:1])
    gradients = compiled({mesh: network.gradient() for mesh, network in networks.items()})
    found = {
        mesh: network.output_and_gradients(gradients[mesh]) for mesh, network in networks.items()
    }
    return {
        mesh: {
            "output": float(np.abs(found[mesh][0] - found[ONE][0]).max()),
            "gradients": max(
                float(np.abs(a - b).max() / np.abs(b).max())
                for a, b in zip(found[mesh][1], found[ONE][1], strict=True)
            ),
            "cut": networks[mesh].share_of_cut_parameters(),
        }
        for mesh in meshes
    }


def forward() -> dict:
    """What devices over which contexts are spread exchange, and their FLOPs, by their number."""
    over_contexts = {
        count: OnMesh(experiment(f"1 {count} 1", {}), jax.devices()[:count]).forward()
        for count in (1, 2, 8)
    }
    return {
        count: {
            "exchanged": collective_bytes(program.as_text()),
            "flops": program.cost_analysis()["flops"],
        }
        for count, program in compiled(over_contexts).items()
    }


def main(path: str, every_mesh: str = "") -> None:
    if jax.device_count() != 8:
        sys.exit(f"{jax.device_count()} devices; expected 8 simulated ones")
    if every_mesh:
        results = deviations(MESHES, **DEEPER)
    else:
        results = deviations(FEW_MESHES)
        results["forward, contexts over devices"] = forward()
        results["augmentation"] = augmentation()
        results["parts"] = parts()
        results["evaluation"] = evaluation()
    Path(path).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
