"""The page of a server with an archive: a reader sends what an expert segmented to a real Orthanc.

Skipped where Orthanc or Chromium is not installed, with the line that installs it.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, expect
from pydicom.uid import generate_uid

from infra.pacs.orthanc import Orthanc
from tests.e2e.archive import archived
from tests.e2e.browser import chromium, driven, launched, opened
from tests.e2e.serving_fixture import Served, served
from tests.e2e.test_page import answered, ask, tabbed_to, upload, volume_shown
from tests.unit.data import dicom_files as make

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    chromium()
    with archived(tmp_path_factory.mktemp("orthanc") / "pacs") as started:
        yield started


@pytest.fixture(scope="module")
def server(archive: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    command = ["tests.e2e.serving_process", "PORT"]
    with served(tmp_path_factory.mktemp("server"), command, environment=archive.environment()) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with driven() as playwright, launched(playwright) as made:
        yield made


@pytest.fixture
def series(tmp_path: Path) -> tuple[str, Path]:
    """A CT of a study of its own, in a zip."""
    uids = {name: str(generate_uid()) for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    voxels_KHW = np.random.default_rng(0).integers(0, 1000, (8, 12, 12)).astype(np.int16)
    folder = make.series(tmp_path / "ct", voxels_KHW, tags=uids)
    return uids["StudyInstanceUID"], Path(shutil.make_archive(str(tmp_path / "ct"), "zip", folder))


def stored_in(archive: Orthanc, study_uid: str) -> list[str]:
    """Modalities of a study's series in the archive."""
    headers = {"Accept": "application/dicom+json", "Authorization": archive.authorization_file.read_text().strip()}
    told = httpx.get(f"{archive.url}/studies/{study_uid}/series", headers=headers, trust_env=False)
    return [one["00080060"]["Value"][0] for one in told.json()] if told.status_code == httpx.codes.OK else []


def test_a_segmentation_is_sent_to_the_archive(
    browser: Browser, server: Served, archive: Orthanc, series: tuple[str, Path]
) -> None:
    study_uid, packed = series
    with opened(browser, server.url) as tab:
        page = tab.page
        upload(page, packed)
        volume_shown(page)
        ask(page, "Is there a hepatic tumor?")
        answered(page)
        assert stored_in(archive, study_uid) == []
        button = page.get_by_role("button", name="Send segmentations to the PACS")
        expect(button).to_be_visible()
        assert tab.axe() == []
        tab.shot("17-send-to-pacs")
        tabbed_to(page, ".stowing button")
        page.keyboard.press("Enter")
        expect(page.locator(".stowing")).to_have_text("1 segmentation is in the PACS.")
        expect(button).to_have_count(0)
        tab.shot("18-sent-to-pacs")
    assert stored_in(archive, study_uid) == ["SEG"]


def test_an_archive_that_is_gone_is_named_and_can_be_tried_again(
    browser: Browser, server: Served, series: tuple[str, Path]
) -> None:
    _, packed = series
    with opened(browser, server.url) as tab:
        tab.expected.append("ERR_FAILED")
        page = tab.page
        upload(page, packed)
        ask(page, "Is there a hepatic tumor?")
        answered(page)
        page.route("**/stow", lambda route: route.abort())
        button = page.get_by_role("button", name="Send segmentations to the PACS")
        button.click()
        expect(page.locator(".stowing")).to_contain_text("cannot be reached")
        page.unroute("**/stow")
        button.click()
        expect(page.locator(".stowing")).to_have_text("1 segmentation is in the PACS.")
