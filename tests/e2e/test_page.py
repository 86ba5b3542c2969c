"""The page as a reader meets it: a real Chromium on a real server. Pictures of it are left in ``runs/page``."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import APIResponse, Browser, Page, Playwright, Route, expect

from tests.e2e.browser import DRAWS_NOTHING, PATIENCE_MS, Seen, driven, launched, opened
from tests.e2e.serving_fixture import Served, served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
expect.set_options(timeout=PATIENCE_MS)
KEY = "alpha-key-0123456789"
TABLET = {"viewport": {"width": 820, "height": 1180}, "has_touch": True, "is_mobile": True}
SLICE_WITH_BOX = 2  # where the rule-following expert finds something


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with driven() as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    with launched(playwright) as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    command = ["tests.e2e.serving_process", "PORT", "--expert-s", "1.5", "--token-s", "0.02"]
    with served(tmp_path_factory.mktemp("server"), command) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a key, whose experts take their time."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys"
    keys.write_text(f"{KEY}\n")
    command = ["tests.e2e.serving_process", "PORT", "--expert-s", "12"]
    with served(folder, command, environment={"VILAM3_API_KEYS_FILE": str(keys)}) as running:
        yield running


@pytest.fixture
def seen(browser: Browser, server: Served) -> Iterator[Seen]:
    with opened(browser, server.url) as tab:
        yield tab


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ellipsoid of soft tissue in air, 12 x 12 x 8 voxels: the expert's box is plain to see in it."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in (12, 12, 8)), indexing="ij"))
    voxels = np.where((grid**2).sum(axis=0) < 1.2, 60, -1000).astype(np.int16)
    path = tmp_path_factory.mktemp("ct") / "abdomen.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([3.0, 3.0, 5.0, 1.0])), path)
    return path


@pytest.fixture(scope="module")
def radiograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cxr") / "chest.png"
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))).save(path)
    return path


def upload(page: Page, *paths: Path) -> None:
    """Give the page files, as the file chooser would."""
    page.locator("#files").set_input_files(list(paths))
    expect(page.locator("#studies option:checked")).to_contain_text(paths[0].name)


def volume_shown(page: Page) -> None:
    expect(page.locator("#planes")).to_be_visible()


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question", exact=True).fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def answered(page: Page) -> None:
    expect(page.locator(".text.final").last).to_be_visible()
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_visible()


def red_pixels(page: Page) -> int:
    """How much of the stage is tinted red."""
    pixels = np.asarray(Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")).astype(int)
    return int(((pixels[..., 0] - pixels[..., 1] > 40) & (pixels[..., 0] - pixels[..., 2] > 40)).sum())


def go_to_slice(page: Page, index: int) -> None:
    """With the keyboard, from the lowest slice on."""
    position = page.locator("#position")
    position.press("Home")
    for _ in range(index):
        position.press("ArrowUp")
    expect(position).to_have_attribute("aria-valuetext", f"{index + 1} of 8 slices")


def asked_about_the_tumor(page: Page, ct: Path) -> None:
    upload(page, ct)
    volume_shown(page)
    go_to_slice(page, SLICE_WITH_BOX)
    ask(page, "Is there a hepatic tumor?")
    answered(page)
    expect(page.get_by_role("group", name="VISTA3D, hepatic tumor")).to_be_visible()


def test_a_reader_uploads_asks_and_sees_the_finding_in_the_image(seen: Seen, ct: Path) -> None:
    page = seen.page
    expect(page.get_by_role("note")).to_contain_text("Draft for a clinician; research use only")
    seen.shot("1-empty")
    upload(page, ct)
    volume_shown(page)
    seen.shot("2-study")
    go_to_slice(page, SLICE_WITH_BOX)
    assert red_pixels(page) == 0
    ask(page, "Is there a hepatic tumor?")
    expect(page.locator(".finding.running")).to_be_visible()
    seen.shot("3-expert-runs")
    answered(page)
    expect(page.locator(".text.final")).to_have_text("yes")
    expect(page.locator(".finding img.overlay")).to_have_js_property("complete", value=True)
    expect(page.locator(".finding")).to_contain_text("1.5 ml")
    page.wait_for_timeout(500)
    assert red_pixels(page) > 100
    seen.shot("4-answer")


def test_each_label_can_be_switched_off_and_on(seen: Seen, ct: Path) -> None:
    page = seen.page
    asked_about_the_tumor(page, ct)
    label = page.get_by_label("hepatic tumor", exact=True)
    expect(label).to_be_checked()
    page.wait_for_timeout(500)
    assert red_pixels(page) > 100
    label.uncheck()
    page.wait_for_timeout(500)
    assert red_pixels(page) == 0
    expect(page.get_by_role("checkbox", name="VISTA3D, hepatic tumor")).not_to_be_checked()
    page.get_by_role("button", name="Show in viewer").click()
    expect(label).to_be_checked()


def test_where_a_finding_and_an_answer_come_from_is_told(seen: Seen, ct: Path) -> None:
    page = seen.page
    asked_about_the_tumor(page, ct)
    page.get_by_text("Where this finding comes from").click()
    finding = page.locator(".finding .provenance")
    for told in ("VISTA3D", "hepatic tumor", "0" * 12, str(SLICE_WITH_BOX + 1)):
        expect(finding).to_contain_text(told)
    page.get_by_text("Where this answer comes from").click()
    expect(page.locator(".reply > .provenance")).to_contain_text("d" * 12)
    page.locator(".reply > .provenance").scroll_into_view_if_needed()
    seen.shot("5-provenance")


@pytest.mark.parametrize(
    ("title", "ending", "begins"),
    [
        ("Download Overlay (PNG)", "overlay.png", b"\x89PNG"),
        ("Download Mask (NIfTI)", "mask.nii.gz", b"\x1f\x8b"),
        ("Download report (JSON)", ".json", b"{"),
    ],
)
def test_files_of_an_answer_can_be_had(seen: Seen, ct: Path, title: str, ending: str, begins: bytes) -> None:
    asked_about_the_tumor(seen.page, ct)
    with seen.page.expect_download() as begun:
        seen.page.get_by_role("button", name=title).click()
    assert begun.value.suggested_filename.endswith(ending)
    assert Path(begun.value.path()).read_bytes().startswith(begins)


def test_an_expert_that_fails_is_shown_with_its_reason(seen: Seen, ct: Path) -> None:
    page = seen.page
    upload(page, ct)
    ask(page, "How is the pancreas?")
    answered(page)
    expect(page.locator(".finding.failed")).to_contain_text("the pancreas is outside the field of view")
    expect(page.locator(".note")).to_contain_text("outside the field of view")
    expect(page.locator(".draft")).to_be_visible()
    seen.shot("6-expert-failed")


def test_a_file_that_is_no_image_is_refused_with_a_sentence(seen: Seen, tmp_path: Path) -> None:
    seen.expected.append("400")
    letter = tmp_path / "letter.dcm"
    letter.write_text("Dear colleague, " * 50)
    seen.page.locator("#files").set_input_files(letter)
    alert = seen.page.locator("#viewer-alert")
    expect(alert).to_be_visible()
    expect(alert).to_contain_text("letter.dcm")
    seen.shot("7-upload-refused")


def test_a_server_that_is_gone_is_named_and_can_be_asked_again(seen: Seen, ct: Path) -> None:
    page = seen.page
    seen.expected.append("ERR_FAILED")
    upload(page, ct)
    volume_shown(page)
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "Is there a hepatic tumor?")
    expect(page.locator(".turn [role=alert]")).to_contain_text("cannot be reached")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Ask again").click()
    answered(page)


def test_a_question_can_be_stopped(browser: Browser, guarded: Served, ct: Path) -> None:
    with opened(browser, guarded.url) as tab:
        tab.expected.append("401")
        page = tab.page
        page.locator("#key").fill(KEY)
        page.locator("#key").press("Enter")
        upload(page, ct)
        ask(page, "Is there a pancreas?")
        expect(page.locator(".finding .state")).to_contain_text("%")
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(page.locator(".turn [role=alert]")).to_contain_text("Stopped")
        expect(page.locator(".finding.running")).to_have_count(0)
        expect(page.get_by_role("button", name="Ask", exact=True)).to_be_visible()


def test_everything_can_be_done_with_the_keyboard(seen: Seen, ct: Path) -> None:
    page = seen.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the question")).to_be_focused()
    tabbed_to(page, "#studies")
    with page.expect_file_chooser() as chosen:
        tabbed_to(page, "#open-files")
        page.keyboard.press("Enter")
    chosen.value.set_files(ct)
    volume_shown(page)
    expect(page.locator("#position-told")).to_have_text("5 / 8")  # where a study opens
    tabbed_to(page, "#position")
    page.keyboard.press("Home")
    expect(page.locator("#position-told")).to_have_text("1 / 8")
    tabbed_to(page, "#question")
    page.keyboard.type("Is there a hepatic tumor?")
    page.keyboard.press("Enter")
    answered(page)
    expect(page.locator("#status")).to_contain_text("Answer: yes")
    page.locator("#open-files").focus()
    tabbed_to(page, "[value='26']")
    page.keyboard.press("Space")
    expect(page.locator("[value='26']")).not_to_be_checked()
    tabbed_to(page, ".finding .provenance summary")
    page.keyboard.press("Enter")
    expect(page.locator(".finding .provenance dl")).to_be_visible()
    seen.shot("8-keyboard")


def tabbed_to(page: Page, selector: str) -> None:
    """Press Tab until it is there; it must be within reach."""
    for _ in range(60):
        if page.evaluate("chosen => document.activeElement?.matches(chosen) ?? false", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached with Tab")


def test_planes_window_and_zoom_change_what_is_shown(seen: Seen, ct: Path) -> None:
    page = seen.page
    upload(page, ct)
    volume_shown(page)
    pictures = [page.locator("#stage").screenshot()]
    for change in (
        lambda: page.get_by_role("radio", name="Coronal").check(),
        lambda: page.get_by_role("radio", name="All three").check(),
        lambda: page.get_by_role("button", name="Zoom in").click(),
        lambda: page.locator("#window").select_option("Bone"),
    ):
        change()
        page.wait_for_timeout(500)
        pictures.append(page.locator("#stage").screenshot())
    assert len(set(pictures)) == len(pictures)
    seen.shot("9-three-planes")


def test_a_radiograph_is_a_picture_and_its_scores_a_table(seen: Seen, radiograph: Path) -> None:
    page = seen.page
    upload(page, radiograph)
    expect(page.locator("#slice")).to_be_visible()
    expect(page.locator("#slicer")).to_be_hidden()
    ask(page, "What is seen in this chest?")
    answered(page)
    expect(page.locator(".finding tr.likely")).to_contain_text("90 %")


def test_the_whole_volume_can_be_asked_about_and_its_finding_is_gone_to(seen: Seen, ct: Path) -> None:
    page = seen.page
    upload(page, ct)
    volume_shown(page)
    expect(page.locator("#about")).to_have_text("about slice 5")
    tabbed_to(page, "#whole-volume")
    page.keyboard.press("Space")
    expect(page.locator("#about")).to_have_text("about all 8 slices")
    seen.shot("15-whole-volume")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "Is there a hepatic tumor?")
    assert json.loads(sent.value.post_data or "")["scope"] == "volume"
    answered(page)
    expect(page.locator(".question")).to_contain_text("asked about the whole volume")
    expect(page.locator("#position-told")).to_have_text("2 / 8")  # the first of the two slices that its box is in
    seen.shot("16-whole-volume-answer")


def test_a_picture_has_no_volume_to_ask_about(seen: Seen, radiograph: Path) -> None:
    upload(seen.page, radiograph)
    expect(seen.page.locator("#about")).to_have_text("about this picture")
    expect(seen.page.locator("#whole-field")).to_be_hidden()


def test_another_study_begins_another_conversation(seen: Seen, ct: Path, radiograph: Path) -> None:
    page = seen.page
    asked_about_the_tumor(page, ct)
    upload(page, radiograph)
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.locator("#layers")).to_be_hidden()
    bodies: list[str] = []
    page.on("request", lambda request: bodies.append(request.post_data or "") if "chat" in request.url else None)
    ask(page, "What is seen in this chest?")
    answered(page)
    assert len(json.loads(bodies[0])["messages"]) == 1


def test_a_study_is_picked_again_and_removed(seen: Seen, browser: Browser, server: Served, ct: Path) -> None:
    upload(seen.page, ct)
    chosen = seen.page.locator("#studies").input_value()
    with opened(browser, server.url) as other:
        other.page.locator(f"#studies option[value='{chosen}']").wait_for(state="attached")
        other.page.locator("#studies").select_option(chosen)
        volume_shown(other.page)
        assert ct.name not in other.page.locator("#studies").inner_text(), "names of files stay in their tab"
        other.page.on("dialog", lambda dialog: dialog.accept())
        other.page.get_by_role("button", name="Remove").click()
        expect(other.page.locator(f"#studies option[value='{chosen}']")).to_have_count(0)


def test_a_list_that_was_asked_for_before_an_upload_loses_nothing(seen: Seen, ct: Path) -> None:
    page = seen.page
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        if route.request.method == "GET":
            held.append((route, route.fetch()))
        else:
            route.continue_()

    page.wait_for_load_state("networkidle")
    page.route("**/v1/studies", hold)
    with page.expect_request("**/v1/studies"):
        page.reload()
    upload(page, ct)
    chosen = page.locator("#studies").input_value()
    for route, response in held:
        with page.expect_response("**/v1/studies"):
            route.fulfill(response=response)
    page.wait_for_timeout(500)
    assert len(held) == 1
    assert page.locator("#studies").input_value() == chosen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, server: Served, ct: Path, scheme: str) -> None:
    with opened(browser, server.url, color_scheme=scheme) as tab:
        assert tab.axe() == []
        asked_about_the_tumor(tab.page, ct)
        for summary in tab.page.locator("summary").all():
            summary.click()
        tab.page.wait_for_timeout(300)
        assert tab.axe() == []
        tab.shot(f"10-{scheme}")


def test_it_is_dark_where_the_reader_likes_it_dark(browser: Browser, server: Served) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        with opened(browser, server.url, color_scheme=scheme) as tab:
            told = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
            grounds.append(sum(int(part) for part in told.removeprefix("rgb(").removesuffix(")").split(",")))
    assert grounds[0] > 600
    assert grounds[1] < 150


def test_a_tablet_shows_all_of_it_and_takes_touch(browser: Browser, server: Served, ct: Path) -> None:
    with opened(browser, server.url, **TABLET) as tab:
        page = tab.page
        upload(page, ct)
        volume_shown(page)
        page.get_by_role("button", name="Slice above").tap()
        expect(page.locator("#position-told")).to_have_text("6 / 8")
        page.get_by_role("button", name="Is there a hepatic tumor?").tap()
        answered(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        expect(page.get_by_role("note")).to_be_in_viewport()
        expect(page.locator(".text.final")).to_be_in_viewport()
        expect(page.locator("#stage")).to_be_in_viewport()
        tab.shot("11-tablet")
        assert tab.axe() == []


def test_a_tablet_on_its_side_has_image_and_conversation_side_by_side(
    browser: Browser, server: Served, ct: Path
) -> None:
    with opened(browser, server.url, **{**TABLET, "viewport": {"width": 1180, "height": 820}}) as tab:
        asked_about_the_tumor(tab.page, ct)
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        viewer, chat = (tab.page.locator(part).bounding_box() for part in (".viewer", ".chat"))
        assert viewer is not None
        assert chat is not None
        assert viewer["x"] + viewer["width"] <= chat["x"]
        tab.shot("12-tablet-landscape")


def test_a_server_with_keys_asks_for_one_and_gives_files_to_it_alone(
    browser: Browser, guarded: Served, ct: Path
) -> None:
    with opened(browser, guarded.url) as tab:
        tab.expected.append("401")
        page = tab.page
        dialog = page.get_by_role("dialog", name="API key")
        expect(dialog).to_be_visible()
        assert tab.axe() == []
        dialog.get_by_label("Key").fill("wrong-key-0123456789")
        dialog.get_by_label("Key").press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("does not know this key")
        tab.shot("13-key")
        dialog.get_by_label("Key").fill(KEY)
        dialog.get_by_role("button", name="Use this key").click()
        expect(dialog).to_be_hidden()
        asked_about_the_tumor(page, ct)
        expect(page.locator(".finding img.overlay")).to_have_js_property("naturalWidth", 32)
        assert KEY not in json.dumps(page.evaluate("({...localStorage, cookie: document.cookie, at: location.href})"))


def test_without_webgl_slices_are_shown_one_by_one(playwright: Playwright, server: Served, ct: Path) -> None:
    with launched(playwright, DRAWS_NOTHING) as plain, opened(plain, server.url) as tab:
        tab.expected.append("WebGL")
        upload(tab.page, ct)
        expect(tab.page.locator("#viewer-alert")).to_contain_text("no WebGL 2")
        go_to_slice(tab.page, SLICE_WITH_BOX)
        expect(tab.page.locator("#slice")).to_have_attribute("alt", "CT, 8 slices: axial, slice 3 of 8")
        ask(tab.page, "Is there a hepatic tumor?")
        answered(tab.page)
        expect(tab.page.locator("#slice")).to_have_attribute("alt", "Overlay by VISTA3D: hepatic tumor")
        tab.shot("14-without-webgl")
