"""The whole story in a browser, with the network that ships, as people start it."""

import json
import signal

import nibabel as nib
import numpy as np
import pytest
from serve.browser import Page, chromium, serving
from serve.cohort import write_cohort

from wsicl_jax.cli import main
from wsicl_jax.metrics.overlap import dice

NAMES = [f"subject{number}" for number in range(1, 6)]


def ras(mask):
    """A mask as the page shows it; the files run to the left and back."""
    return mask[::-1, ::-1]


def dice_of(file, mask):
    return dice(np.asarray(nib.load(file).dataobj) > 0, mask)


def marked(page, masks):
    """Boxes on three images; the others are targets."""
    for name in NAMES[:3]:
        page.show(name)
        page.draw_box(ras(masks[f"{name}.nii.gz"]))
        page.wait(lambda name=name: page.find(f"li.context[data-image='{name}.nii.gz']"), "context")
    for name in NAMES[3:]:
        page.use(name, "target")


@pytest.mark.slow
def test_boxes_on_three_images_segment_the_others_and_nothing_is_lost(tmp_path):
    folder = tmp_path / "images"
    masks = write_cohort(folder, len(NAMES))
    with chromium() as browser:
        with serving(folder, end=signal.SIGKILL) as address:
            page = Page(browser, address)
            paint = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
            assert browser.execute_script(paint) < 1000
            marked(page, masks)
            # The box of the last image reaches through slices.
            page.show("subject3")
            page.click("[data-tool=look]")
            page.press("ARROW_UP", 3)
            page.click("#prompts li button.small")
            page.wait(lambda: page.text("#prompts .what").endswith(", 19-22"), "box in 3D")
            page.drop("dropped.nii.gz", (folder / "subject5.nii.gz").read_bytes())
            assert page.find("#images li[data-image='dropped.nii.gz']")

            page.show("subject4")
            assert not page.shows_mask()
            said = page.segment("#segment", "Segmented subject4")
            print(said)
            page.wait(page.shows_mask, "mask over the image")

            # A correction is segmented at once.
            page.click("[data-tool=point]")
            middle = np.argwhere(ras(masks["subject4.nii.gz"])).mean(axis=0)
            page.drag(middle[:2])
            page.wait(lambda: not page.find("#results tr.outdated"), "corrected result")
            page.wait(lambda: page.status.startswith("Segmented"), "end of the correction")

            # A reload in the middle of the work shows its progress again.
            page.click("#segment-all")
            page = Page(browser, browser.current_url)
            page.wait(lambda: not page.find("#cancel").is_displayed(), "end of the job")
            page.show("subject4")
            page.wait(page.shows_mask, "mask after the reload")

            # Accepted, it serves the last target.
            page.click("#results tr.shown button.small")
            page.wait(lambda: page.find("li.context[data-image='subject4.nii.gz']"), "accepted")
            assert "accepted mask" in page.text("#prompts li")
            page.segment("#segment-all", "Segmented subject5")
            assert page.text("#results tbody td:nth-child(3)")  # the doubt
            page.segment("#save", "Saved")
            session = browser.execute_script("return location.hash")
            results = page.text("#results tbody")
            assert page.faults() == []

        # The service was killed: another one knows everything.
        with serving(folder) as address:
            page = Page(browser, f"{address}{session}")
            page.wait(lambda: page.text("#results tbody") == results, "the results")
            page.show("subject4")
            page.wait(page.shows_mask, "accepted mask")
            assert "accepted mask" in page.text("#prompts li")
            page.show("subject1")
            assert page.text("#prompts li").startswith("box")
            page.click("#undo")
            page.wait(lambda: "box" in page.text("#prompts li") or page.find("#redo"), "undo")
            assert page.faults() == []

    (saved,) = (folder / "wsicl_results").iterdir()
    assert dice_of(saved / "subject5.nii.gz", masks["subject5.nii.gz"]) > 0.7
    task = json.loads((saved / "task.json").read_text())
    assert len(task["context"]) == 4
    # What was clicked runs on a cluster, and gives the same.
    target, output = folder / "subject5.nii.gz", tmp_path / "masks"
    command = ["predict", "small", "--context", str(saved / "task.json"), "--output", str(output)]
    assert main([*command, str(target)]) == 0
    alone, kept = (nib.load(at / "subject5.nii.gz").get_fdata() for at in (output, saved))
    assert dice(alone > 0, kept > 0) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [(1600, 1000), (1024, 700), (480, 900)])
def test_the_page_fits_windows_of_every_size(tmp_path, size, dark):
    write_cohort(tmp_path / "images", 2)
    with chromium(size, dark=dark) as browser, serving(tmp_path / "images") as address:
        page = Page(browser, address)
        inner, width = browser.execute_script(
            "return [innerWidth, document.documentElement.scrollWidth]"
        )
        assert width <= inner
        for selector in ("#segment", "#segment-all", "#save", "#axial", "#surface"):
            assert page.find(selector).rect["width"] > 20
        for pane in ("#axial", "#coronal", "#sagittal", "#surface"):
            assert page.find(pane).rect["height"] > 100
        back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        level = int(back.removeprefix("rgb(").partition(",")[0])
        assert (level < 128) == dark
        assert page.faults() == []
