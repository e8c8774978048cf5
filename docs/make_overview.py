"""Draws docs/images/overview.png: `small` on fetal brains, from points and from masks.

    python docs/make_overview.py FOLDER docs/images/overview.png

FOLDER holds the fetal spina bifida atlas of Fidon et al. (2021, CC0) as an nnU-Net data set:
imagesTr/fetal_SB_atlas_GA30_operated_0000.nii.gz, labelsTr/fetal_SB_atlas_GA30_operated.nii.gz
and so on.
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

from wsicl_jax import Example, Segmenter

STRUCTURES = {"ventricles": 2, "deep grey matter": 6, "cerebellum": 3, "brain stem": 7}
COLORS = {
    "ventricles": "#4cc9f0",
    "deep grey matter": "#ffb703",
    "cerebellum": "#ef476f",
    "brain stem": "#8ac926",
}
WEEKS = (26, 27, 28, 29, 31, 32, 33, 34)
TARGET_WEEK = 30
SHOWN_WEEKS = (28, 33)
POINTS = 5


def name(week: int) -> str:
    return f"fetal_SB_atlas_GA{week}_operated"


def read(path: Path) -> np.ndarray:
    """Voxels in RAS+ order, so that planes are drawn upright."""
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


def draw(axis, volume: np.ndarray, labels: np.ndarray | None, plane: int, at: float = 0.5) -> None:
    """A plane at a share of the volume, structures filled; left is the subject's left."""
    index = int(volume.shape[plane] * at)
    axis.imshow(
        volume.take(index, plane).T,
        cmap="gray",
        origin="lower",
        vmin=0,
        vmax=1.15 * np.percentile(volume, 99.7),
        interpolation="bicubic",
    )
    for structure, value in () if labels is None else STRUCTURES.items():
        inside = (labels == value).take(index, plane).T
        if inside.any():
            axis.contourf(inside, [0.5, 1.5], colors=[COLORS[structure]], alpha=0.35)
            axis.contour(inside, [0.5], colors=[COLORS[structure]], linewidths=1.4)
    axis.axis("off")


def main(folder: Path, output: Path) -> None:
    def image_file(week: int) -> Path:
        return folder / "imagesTr" / f"{name(week)}_0000.nii.gz"

    def label_file(week: int) -> Path:
        return folder / "labelsTr" / f"{name(week)}.nii.gz"

    rng = np.random.default_rng(0)
    points = {
        (structure, week): rng.choice(
            np.argwhere(np.asarray(nib.load(label_file(week)).dataobj) == value), POINTS, False
        )
        for structure, value in STRUCTURES.items()
        for week in WEEKS
    }
    context_sets = {
        f"from {POINTS} points\non each context image": {
            structure: [Example(image_file(w), points=points[structure, w]) for w in WEEKS]
            for structure in STRUCTURES
        },
        "from a mask\non each context image": {
            structure: [Example(image_file(w), mask=label_file(w), labels=[value]) for w in WEEKS]
            for structure, value in STRUCTURES.items()
        },
    }
    segmenter = Segmenter.load("small")
    target = nib.load(image_file(TARGET_WEEK))
    columns = []
    truth = np.asarray(nib.load(label_file(TARGET_WEEK)).dataobj)
    for title, structures in context_sets.items():
        result = segmenter.task(structures, STRUCTURES).segment(image_file(TARGET_WEEK))
        scores = {s: dice(result.mask_of(s), truth == v) for s, v in STRUCTURES.items()}
        each = ", ".join(f"{structure} {score:.3f}" for structure, score in scores.items())
        print(f"{' '.join(title.split())}: mean Dice {np.mean(list(scores.values())):.3f}; {each}")
        turned = nib.as_closest_canonical(nib.Nifti1Image(result.label_map, target.affine))
        columns.append((title, np.asarray(turned.dataobj)))
    columns.append(("label map\nof the atlas", read(label_file(TARGET_WEEK))))
    volume = read(image_file(TARGET_WEEK))

    figure = Figure(figsize=(12, 6), layout="constrained", facecolor="black")
    axes = figure.subplots(2, 4, width_ratios=[1, 1, 1, 1])
    for axis, week in zip(axes[:, 0], SHOWN_WEEKS, strict=True):
        context = nib.load(image_file(week))
        turn = np.linalg.inv(nib.as_closest_canonical(context).affine) @ context.affine
        draw(axis, read(image_file(week)), None, 0)
        for structure in STRUCTURES:
            _, y, z = nib.affines.apply_affine(turn, points[structure, week]).T
            axis.scatter(y, z, s=40, color=COLORS[structure], edgecolors="black", linewidths=0.6)
    axes[0, 0].set_title(
        f"2 of {len(WEEKS)} context images\nwith their points", color="white", fontsize=14
    )
    for column, (title, labels) in zip(axes.T[1:], columns, strict=True):
        draw(column[0], volume, labels, 1, 0.46)
        draw(column[1], volume, labels, 0)
        column[0].set_title(title, color="white", fontsize=14)
    handles = [
        axes[0, 0].scatter([], [], s=60, color=COLORS[s], label=s, marker="s") for s in STRUCTURES
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        labelcolor="white",
        fontsize=13,
    )
    figure.savefig(output, dpi=100, facecolor="black")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
