"""Draws docs/images/overview.png: `small` on the hippocampus, from points and from masks.

    python docs/make_overview.py FOLDER docs/images/overview.png

FOLDER holds the hippocampus data set of the Medical Segmentation Decathlon (CC BY-SA 4.0) as an
nnU-Net data set: imagesTr/hippocampus_001_0000.nii.gz, labelsTr/hippocampus_001.nii.gz and so on.
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

from wsicl_jax import Example, Segmenter

STRUCTURES = {"anterior part": 1, "posterior part": 2}
COLORS = {"anterior part": "#ffb703", "posterior part": "#4cc9f0"}
SUBJECTS = ("003", "006", "007", "008", "014", "015", "017", "019")
TARGET = "001"
SHOWN = ("006", "014")
POINTS = 5


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
    def image_file(subject: str) -> Path:
        return folder / "imagesTr" / f"hippocampus_{subject}_0000.nii.gz"

    def label_file(subject: str) -> Path:
        return folder / "labelsTr" / f"hippocampus_{subject}.nii.gz"

    rng = np.random.default_rng(0)
    points = {
        (structure, subject): rng.choice(
            np.argwhere(np.asarray(nib.load(label_file(subject)).dataobj) == value), POINTS, False
        )
        for structure, value in STRUCTURES.items()
        for subject in SUBJECTS
    }
    context_sets = {
        f"from {POINTS} points\non each context image": {
            structure: [
                Example(image_file(subject), points=points[structure, subject])
                for subject in SUBJECTS
            ]
            for structure in STRUCTURES
        },
        "from a mask\non each context image": {
            structure: [
                Example(image_file(subject), mask=label_file(subject), labels=[value])
                for subject in SUBJECTS
            ]
            for structure, value in STRUCTURES.items()
        },
    }
    segmenter = Segmenter.load("small")
    target = nib.load(image_file(TARGET))
    columns = []
    truth = np.asarray(nib.load(label_file(TARGET)).dataobj)
    for title, structures in context_sets.items():
        result = segmenter.task(structures, STRUCTURES).segment(image_file(TARGET))
        scores = {s: dice(result.mask_of(s), truth == v) for s, v in STRUCTURES.items()}
        each = ", ".join(f"{structure} {score:.3f}" for structure, score in scores.items())
        print(f"{' '.join(title.split())}: mean Dice {np.mean(list(scores.values())):.3f}; {each}")
        turned = nib.as_closest_canonical(nib.Nifti1Image(result.label_map, target.affine))
        columns.append((title, np.asarray(turned.dataobj)))
    columns.append(("label map\nof the data set", read(label_file(TARGET))))
    volume = read(image_file(TARGET))

    figure = Figure(figsize=(12, 6), layout="constrained", facecolor="black")
    axes = figure.subplots(2, 4, width_ratios=[1, 1, 1, 1])
    for axis, subject in zip(axes[:, 0], SHOWN, strict=True):
        context = nib.load(image_file(subject))
        turn = np.linalg.inv(nib.as_closest_canonical(context).affine) @ context.affine
        draw(axis, read(image_file(subject)), None, 0)
        for structure in STRUCTURES:
            _, y, z = nib.affines.apply_affine(turn, points[structure, subject]).T
            axis.scatter(y, z, s=40, color=COLORS[structure], edgecolors="black", linewidths=0.6)
    axes[0, 0].set_title(
        f"2 of {len(SUBJECTS)} context images\nwith their points", color="white", fontsize=14
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
