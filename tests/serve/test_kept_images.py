import nibabel as nib
import numpy as np
from inference.volumes import VOLUME

from wsicl_jax.config import InferenceConfig
from wsicl_jax.data.images import Volume
from wsicl_jax.serve import kept_images
from wsicl_jax.serve.folder import Folder
from wsicl_jax.serve.kept_images import Kept, KeptImages, for_display


def test_values_that_were_used_last_are_kept_within_the_memory():
    made = []
    kept = Kept(10, len)

    def get(key, size):
        return kept.get(key, lambda: made.append(key) or "x" * size)

    for key, size in (("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4)):
        assert get(key, size) == "x" * size
    assert made == ["a", "b", "c", "b"]


def test_a_value_larger_than_the_memory_is_made_each_time_and_displaces_none():
    kept = Kept(10, len)
    kept.get("small", lambda: "x")
    assert kept.get("large", lambda: "x" * 11) == "x" * 11
    assert kept.peek("large") is None
    assert kept.peek("small") == "x"


def test_an_image_is_read_once_until_its_file_changes(folder, monkeypatch):
    reads = []
    read = kept_images.read_volume
    monkeypatch.setattr(kept_images, "read_volume", lambda *a: reads.append(a[0].name) or read(*a))
    images = KeptImages(VOLUME, InferenceConfig(), 0.01)
    file = Folder(folder, max_upload_mb=1.0, max_uploads=1)["a.nii.gz"]
    images.glance(file)
    first = images.prepared(file, full=False)
    assert images.prepared(file, full=False) is first
    images.volume(file)
    images.glance(file)
    assert reads == ["a.nii.gz"] * 2  # the first glance keeps nothing
    before = images.volume(file)
    nib.save(nib.Nifti1Image(before.image[::-1], before.affine), file.path)
    np.testing.assert_array_equal(images.volume(file).image, before.image[::-1])
    assert len(reads) == 3


def test_steps_for_display_span_the_values_also_of_a_constant_image():
    ramp = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7
    steps = for_display(Volume(ramp, np.eye(4)))
    assert (steps.min(), steps.max()) == (0, 65535)
    np.testing.assert_allclose(ramp.min() + steps / 65535 * np.ptp(ramp), ramp, atol=1e-3)
    assert not for_display(Volume(np.full((2, 3, 4), 5, np.float32), np.eye(4))).any()
