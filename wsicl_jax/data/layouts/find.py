"""The layout of a folder, detected."""

from pathlib import Path

from wsicl_jax.data.layouts.described import decathlon, is_decathlon, is_described, nnunet
from wsicl_jax.data.layouts.dicom_folders import dicom_folders, has_dicom
from wsicl_jax.data.layouts.layout import Kind, Layout
from wsicl_jax.data.layouts.paired import is_paired, paired
from wsicl_jax.errors import DataError

_FINDERS = {"nnunet": nnunet, "msd": decathlon, "paired": paired, "dicom": dicom_folders}


def find_layout(source: str | Path, *, kind: Kind = "auto") -> Layout:
    """The cases of a folder, from file names, and from headers of DICOM files.

    Raises:
        DataError: it is of no known layout, or not of the requested one; its description
            cannot be used; or it has no case.
    """
    source = Path(source)
    if not source.is_dir():
        raise DataError(f"{source} is no folder; expected one with images and labels")
    if kind == "auto":
        kind = _kind_of(source)
    return _FINDERS[kind](source)


def _kind_of(source: Path) -> Kind:
    if is_described(source):
        return "msd" if is_decathlon(source) else "nnunet"
    if is_paired(source):
        return "paired"
    if has_dicom(source):
        return "dicom"
    raise DataError(
        f"{source} has no dataset.json (nnU-Net, Decathlon), no folders of images and labels such "
        "as images and labels, no pairs of files such as A_image.nii.gz and A_label.nii.gz, and "
        "no DICOM files"
    )
