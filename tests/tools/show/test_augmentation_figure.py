import matplotlib.image
import pytest

from wsicl_jax.config import AUGMENTATIONS, config_from_dict
from wsicl_jax.tools.show import augmentation_figure as augmentation


@pytest.mark.slow
def test_the_picture_of_augmentation_shows_every_change(tmp_path, monkeypatch):
    shown = []
    draw = augmentation._draw
    monkeypatch.setattr(augmentation, "_DRAWS", 1)
    monkeypatch.setattr(
        augmentation, "_draw", lambda axis, panel: shown.append(panel) or draw(axis, panel)
    )
    config = config_from_dict({"data": "synthetic", "volume": {"grid": [16, 24, 16]}})
    path = tmp_path / "augmentation.png"
    augmentation.augmentation_figure(config, path)
    assert {panel.title for panel in shown} == {"as drawn", *AUGMENTATIONS}
    before = shown[0].group
    intensities = AUGMENTATIONS[AUGMENTATIONS.index("gin") :]
    for panel in shown:
        if panel.title in intensities:
            assert panel.group.masks is before.masks
            assert any(
                (x != y).any() for x, y in zip(panel.group.images, before.images, strict=True)
            )
    height, width, _ = matplotlib.image.imread(path).shape
    assert width == pytest.approx(1650, abs=2)
    assert 0.5 < height / width < 0.7
