"""What must not happen to who looks at the page in a browser (rows I6, I7, I10, L3, P2 and P4).

Row I9 is in test_page.py.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from tests.browser.driving import PARIS, TABS, Server, fill, go

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FULL = {"status": 503, "headers": {"retry-after": "1"}, "json": {"detail": "Many are waiting."}}
OUTSIDE = "<img src=http://outside.invalid/x.png> ![x](http://outside.invalid/y.png) <mask>"


@pytest.fixture
def asked(page: Page) -> Iterator[list[Request]]:
    """What the page asks for, whether or not anybody answers."""
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request))
    yield requests
    assert {urlsplit(request.url).hostname for request in requests} - {None} <= {"127.0.0.1"}


@pytest.mark.parametrize("half", ["\\ud800", "\\0"])
def test_i6_what_is_no_character_is_refused_and_the_page_goes_on(page: Page, half: str) -> None:
    # the keyboard cannot type it, a script can
    page.evaluate(
        f"""() => {{ const box = document.querySelector('#prompt textarea');
        box.value = '{half} <mask>'; box.dispatchEvent(new Event('input')); }}"""
    )
    page.click("#fill")
    expect(page.locator(".block.status .fault")).to_contain_text("U+")
    fill(page, PARIS)
    expect(page.locator(".filled")).to_contain_text("Paris")
    expect(page.locator(".block.status .fault")).to_have_count(0)


@pytest.mark.parametrize("unseen", ["\u202e", "\u2066", "\u200b", "\ufeff"], ids=ascii)
def test_i7_a_character_that_cannot_be_seen_is_in_the_picture(page: Page, unseen: str) -> None:
    pictures = []
    for sentence in ("live <mask>.", f"li{unseen}ve <mask>."):
        fill(page, sentence)
        expect(page.locator(".filled")).to_contain_text("Paris")
        expect(page.locator(".filled")).to_contain_text(
            f"U+{ord(unseen):04X}" if unseen in sentence else "live"
        )
        pictures.append(page.locator(".filled").screenshot())
    assert pictures[0] != pictures[1]
    # it does not turn what follows
    words = page.locator(".filled").evaluate(
        """(filled) => {
          const walk = document.createTreeWalker(filled, NodeFilter.SHOW_TEXT), places = {};
          for (let node; (node = walk.nextNode());)
            for (const word of ['li', 've', 'Paris'])
              if (node.data.includes(word)) {
                const range = document.createRange(), start = node.data.indexOf(word);
                range.setStart(node, start); range.setEnd(node, start + word.length);
                places[word] = range.getBoundingClientRect().left;
              }
          return [places.li, places.ve, places.Paris];
        }"""
    )
    assert words == sorted(words)
    expect(page.locator("#prompt textarea")).to_have_value(f"li{unseen}ve <mask>.")


def test_i10_an_address_in_a_prompt_is_asked_for_nothing(page: Page, asked: list[Request]) -> None:
    fill(page, OUTSIDE)
    expect(page.locator(".filled")).to_contain_text("<img src=http://outside.invalid/x.png>")
    go(page, "score")
    page.fill("#score-prompt textarea", OUTSIDE)
    page.fill("#answers textarea", OUTSIDE.removesuffix(" <mask>"))
    page.click("#score")
    expect(page.locator("#score-chips .card")).to_have_count(2)
    for tab in ("sweep", "corrupt"):
        go(page, tab)
        page.fill(f"#{tab}-text textarea", OUTSIDE.removesuffix(" <mask>"))
        page.click(f"#{tab}")
        expect(page.locator(f"#{tab}-result")).to_contain_text("outside.invalid")
    page.wait_for_timeout(300)
    assert page.locator("img[src*='outside']").count() == 0


def test_p2_and_p4_nothing_is_asked_of_another_host_and_no_prompt_is_kept(
    browser: Browser, server: Server
) -> None:
    page = browser.new_context().new_page()
    hosts: set[str | None] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.goto(server.url)
    page.wait_for_selector("#tabs [role=tab]")
    fill(page, "canary <mask>")
    expect(page.locator("#surprise .bars .point")).to_have_count(2)
    for tab in TABS:
        go(page, tab)
    assert hosts - {None} == {"127.0.0.1"}
    kept = page.evaluate("JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})")
    assert "canary" not in kept and "canary" not in server.log.read_text()
    page.context.close()


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
