"""What must not happen to who looks at the page in a browser (row L3 of the table of faults)."""

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.driving import PARIS, fill

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FULL = {"status": 503, "headers": {"retry-after": "1"}, "json": {"detail": "Many are waiting."}}


def test_l3_who_finds_the_queue_full_is_told_so_and_asks_again_by_itself(page: Page) -> None:
    asked = 0

    def join(route: Route) -> None:
        nonlocal asked
        asked += 1
        if asked <= 2:
            route.fulfill(**FULL)
        else:
            route.continue_()

    page.route("**/queue/join*", join)
    line = page.locator("#health [data-full]")
    fill(page, PARIS)
    expect(line).to_be_visible(timeout=1_000)
    expect(line).to_contain_text("sent again by itself")
    expect(page.locator(".filled")).to_have_text("La capitale de la France est Paris.")
    expect(line).to_be_hidden()
    assert asked == 3


def test_l3_stop_ends_the_wait_for_room(page: Page) -> None:
    page.route("**/queue/join*", lambda route: route.fulfill(**{**FULL, "headers": {"retry-after": "60"}}))
    fill(page, PARIS)
    expect(page.locator("#health [data-full]")).to_be_visible()
    page.click("button.stop:visible")
    expect(page.locator("#health [data-full]")).to_be_hidden()
    page.unroute("**/queue/join*")
    fill(page, PARIS)
    expect(page.locator(".filled")).to_have_text("La capitale de la France est Paris.")
