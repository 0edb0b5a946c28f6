"""The review as people use it: log in, judge by key, undo, disagree, administer."""

from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.time import Time
from helpers import as_shipped, log_in, served, visiting, write_run

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.review.database import Review, archive_key, default_url
from deepstreaks_dask.simulation.nights import simulate_nights

PASSWORD = "correct horse battery"
MEMBERS = ["rb_vgg6", "sl_vgg6", "kd_vgg6"]


@pytest.fixture(scope="module")
def week(tmp_path_factory):
    """Two nights scored by networks that are always right, and that doubt what has no label."""
    url = str(tmp_path_factory.mktemp("review") / "week.zarr")
    create_archive(url, shard=64)
    batches = list(simulate_nights(2, 80, seed=5))
    labels = [
        np.concatenate([batch.columns[f"label_{m[:2]}"] for batch in batches]) for m in MEMBERS
    ]
    scores = np.stack(labels, axis=1).clip(0, 1).astype(np.float32)
    for family in ("rb", "sl", "kd", "os"):
        batches[0].columns[f"label_{family}"][:4] = -1
    scores[:4] = np.array([0.9, 0.45, 0.99, 0.2])[:, None] ** [1, 0, 0]
    append_batches(url, batches)
    write_run(url, "default", MEMBERS, scores)
    as_shipped(url)
    review = Review(default_url(url))
    people = {"root": "administrator", "anna": "reviewer", "ben": "reviewer", "vera": "viewer"}
    for name, role in people.items():
        review.accounts.add_user(name, PASSWORD, role)
    return url


@pytest.fixture(scope="module")
def review(week):
    return Review(default_url(week))


@pytest.fixture(scope="module")
def address(browser, week):
    with served("dashboard", week, "--app", "review", "--port", "0", "--no-show") as url:
        yield url


@pytest.fixture
def visit(browser):
    """Open pages that must raise no error in the browser; refusals are what some tests ask for."""
    with visiting(browser, refusals=True) as visit:
        yield visit


@pytest.fixture
def enter(visit, address):
    def enter(name, **options):
        page = visit(address, **options)
        log_in(page, name, PASSWORD)
        page.wait_for_selector(".thumb.chosen")
        return page

    return enter


def said(review, week, who):
    return {v.cutout: v for v in review.verdicts.current(archive_key(week)) if v.who == who}


def chosen(page):
    return page.get_attribute(".thumb.chosen", "aria-label").split(",")[0]


def until(page, words):
    page.wait_for_function(f"() => {words}")


def undo(page):
    page.evaluate("document.getElementById('found').textContent = ''")
    page.keyboard.press("z")
    page.wait_for_selector("#found:has-text('Undone')")


def test_log_in_needs_the_right_password(visit, address):
    page = visit(address)
    assert page.url.endswith("/login")
    page.fill("#name", "anna")
    page.fill("#password", "wrong password")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=do not belong together")
    page.fill("#password", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector(".thumb")
    page.click("#logout")
    page.wait_for_url("**/login")
    page.goto(f"{address}/review")
    assert page.url.endswith("/login")


def test_verdicts_by_key_and_undo(enter, review, week):
    page = enter("anna")
    first = chosen(page)
    page.keyboard.press("k")
    page.wait_for_selector(".thumb .badge.keep")
    second = chosen(page)
    assert second != first
    page.keyboard.press("s")
    page.keyboard.press("m")
    page.wait_for_selector(".thumb.chosen .badge.marked")
    page.keyboard.press("b")
    page.wait_for_selector(".thumb .badge.bogus")
    stored = said(review, week, "anna")
    assert stored[first].verdict == "keep"
    assert (stored[second].verdict, stored[second].length, stored[second].marked) == (
        "bogus",
        "short",
        True,
    )
    until(page, "document.getElementById('progress').value === 2")
    page.keyboard.press("z")
    page.wait_for_selector(".thumb .badge.bogus", state="detached")
    assert said(review, week, "anna")[second].verdict == ""
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail-name")
    page.keyboard.press("n")
    page.keyboard.type("keys are letters here: kdub")
    page.keyboard.press("Escape")
    page.wait_for_selector(".thumb.chosen .badge:has-text('note')")
    assert said(review, week, "anna")[second].note == "keys are letters here: kdub"
    page.click("#todo")
    until(page, "!document.querySelector('.thumb .badge.keep')")
    assert page.locator(".thumb").count() > 0
    for _ in range(4):
        undo(page)
    left = said(review, week, "anna").values()
    assert not any(one.verdict or one.length or one.marked or one.note for one in left)


def test_filters_sort_complete_and_explain(enter):
    page = enter("anna")
    until(page, "/cutouts$/.test(document.getElementById('found').textContent)")
    everything = page.inner_text("#found")
    page.keyboard.press("/")
    page.keyboard.type("plausible and ki")
    page.wait_for_selector("#completions li:first-child:has-text('kind')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.input_value("#where") == "plausible and kind "
    page.keyboard.type('== "nothing"')
    page.keyboard.press("Escape")
    page.wait_for_selector("#empty:not([hidden])")
    page.fill("#where", "plausible and kidn == 'nea'")
    page.press("#where", "Enter")
    until(page, "document.querySelector('#where-words mark')?.textContent === 'kidn'")
    page.fill("#where", "")
    page.press("#where", "Enter")
    until(page, f"document.getElementById('found').textContent !== {everything!r}")
    until(page, "document.getElementById('found').textContent === '80 cutouts'")
    page.select_option("#sort", "rb_vgg6")
    page.click("#direction")
    until(page, "document.querySelector('.thumb b')?.textContent.includes('rb_vgg6 1.00')")
    page.select_option("#night", "*")
    until(page, "document.getElementById('found').textContent === '160 cutouts'")
    broken = page.evaluate(
        "[...document.querySelectorAll('.thumb img')].filter(i => i.complete && !i.naturalWidth).length"
    )
    assert broken == 0


def test_the_queue_shows_what_would_teach_most(enter, review, week, address):
    ids = open_archive(week)["id"].values[:4]
    page = enter("anna")
    shown = page.input_value("#night"), page.inner_text("#found")
    page.click("#queue")
    until(page, "document.getElementById('found').textContent === '4 cutouts'")
    listed = "[...document.querySelectorAll('.thumb')].map(one => one.ariaLabel)"
    assert page.evaluate(listed) == [ids[k] for k in (1, 3, 0, 2)]
    assert "entropy .99" in page.inner_text(".thumb.chosen")
    page.select_option("#sort", "margin")
    until(page, "document.querySelector('.thumb b')?.textContent.startsWith('margin .05')")
    assert page.evaluate(listed) == [ids[k] for k in (1, 3, 0, 2)]
    page.keyboard.press("Escape")
    page.focus(".thumb.chosen")
    page.keyboard.press("b")
    page.wait_for_selector(".thumb .badge.bogus")
    assert said(review, week, "anna")[ids[1]].verdict == "bogus"
    page.click("#queue")
    until(page, f"document.getElementById('found').textContent === {shown[1]!r}")
    assert page.input_value("#night") == shown[0]
    assert page.input_value("#where") == "plausible"
    ben = enter("ben")
    ben.goto(f"{address}/review?queue=entropy")  # what somebody has judged teaches less
    until(ben, "document.getElementById('found').textContent === '3 cutouts'")
    assert ben.get_attribute("#queue", "aria-pressed") == "true"
    undo(page)


def test_two_people_disagree(enter, visit):
    anna, ben = enter("anna"), enter("ben")
    one = chosen(anna)
    anna.keyboard.press("k")
    anna.wait_for_selector(".thumb .badge.keep")
    assert chosen(ben) == one
    ben.keyboard.press("Enter")
    ben.wait_for_selector("text=once you have given your verdict")
    ben.click("#detail .verdicts button:has-text('ditch')")
    ben.wait_for_selector("#detail td:has-text('keep')")
    assert ben.get_attribute("#detail button:has-text('ditch')", "aria-pressed") == "true"
    ben.keyboard.press("Escape")
    ben.click("#disputed")
    until(ben, "document.getElementById('found').textContent === '1 cutout'")
    assert chosen(ben) == one
    for page in (anna, ben):
        undo(page)


def test_links_out_carry_the_position_and_the_time(enter, week):
    page = enter("anna")
    one = chosen(page)
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail .links a")
    links = {
        link.inner_text(): urlsplit(link.get_attribute("href"))
        for link in page.locator("#detail .links a").all()
    }
    dataset = open_archive(week)
    row = int(np.flatnonzero(dataset["id"].values == one)[0])
    place = SkyCoord(dataset["ra"].values[row], dataset["dec"].values[row], unit="deg")
    when = Time(dataset["jd"].values[row], format="jd")
    asked = {name: dict(parse_qsl(link.query)) for name, link in links.items()}
    assert set(asked) == {
        *("Fink", "ALeRCE", "SIMBAD", "MPC's NEO checker", "MPC's MPChecker", "SkyBoT")
    }
    for name in ("Fink", "ALeRCE"):
        shown = SkyCoord(float(asked[name]["ra"]), float(asked[name]["dec"]), unit="deg")
        assert shown.separation(place).arcsec < 0.1
    for name in ("MPC's NEO checker", "MPC's MPChecker"):
        form = asked[name]
        shown = SkyCoord(form["ra"], form["decl"], unit=("hourangle", "deg"))
        assert shown.separation(place).arcsec < 0.5
        day = Time(f"{form['year']}-{form['month']}-01", scale="utc") + (float(form["day"]) - 1)
        assert 0 <= (when - day).jd < 0.0101
        assert form["which"] == "pos"
    assert links["MPC's NEO checker"].path.endswith("/neocheck.cgi")
    skybot = SkyCoord(float(asked["SkyBoT"]["-ra"]), float(asked["SkyBoT"]["-dec"]), unit="deg")
    assert skybot.separation(place).arcsec < 0.1
    assert abs((Time(asked["SkyBoT"]["-ep"], scale="utc") - when).sec) < 1.5
    assert "where one opens empty" in page.inner_text("#detail")


def test_a_member_shows_what_it_reacted_to(enter):
    page = enter("vera")
    page.keyboard.press("Enter")
    page.select_option("#explain", "rb_vgg6")
    page.wait_for_selector("#explained:has-text('Red speaks for a high score')")
    assert "member=rb_vgg6" in page.get_attribute("#large", "src")
    until(page, "document.getElementById('large').naturalWidth === 144")
    page.select_option("#explain", "")
    until(page, "document.getElementById('large').src.includes('/cutout?')")
    page.select_option("#explain", "kd_vgg6")
    page.wait_for_selector("#explained:has-text('Red speaks for a high score')")
    page.keyboard.press("Escape")
    page.focus(".thumb.chosen")
    page.keyboard.press("ArrowRight")  # another cutout is shown as it is
    page.keyboard.press("Enter")
    until(page, "document.getElementById('large').src.includes('/cutout?')")
    assert page.input_value("#explain") == ""


def test_viewers_look_only(enter, review, week):
    page = enter("vera")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=a reviewer judges")
    assert page.locator("#detail .verdicts").count() == 0
    assert page.locator("nav >> text=Users").count() == 0
    assert not said(review, week, "vera")


def test_an_administrator_adds_and_disables(enter, visit, address):
    root = enter("root")
    root.click("nav >> text=Users")
    root.fill("[name=user]", "carl")
    root.fill("#new-user [name=password]", PASSWORD)
    root.click("#new-user button")
    root.wait_for_selector("text=carl was added")
    carl = enter("carl")
    root.click("[aria-label='Disable carl']")
    root.wait_for_selector("text=carl is disabled")
    root.wait_for_selector("#audit td:has-text('user disabled')")
    carl.goto(f"{address}/review")  # the session is over
    carl.wait_for_url("**/login")


def test_tokens_work_and_end(enter, address):
    import urllib.error
    import urllib.request

    page = enter("anna")
    page.click("nav >> text=Account")
    page.fill("[name=label]", "script")
    page.click("text=Make a token")
    token = page.inner_text("#made code")
    request = urllib.request.Request(
        f"{address}/api/v1/streaks?limit=3", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request) as answer:
        assert len(answer.read().splitlines()) == 3
    page.click("[aria-label='Revoke script']")
    page.wait_for_selector("text=You have no tokens")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request)


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1400, False)])
def test_pages_fit_and_are_lit(enter, address, width, dark):
    page = enter("root", width=width, dark=dark)
    theme = "dark" if dark else "light"
    for name in ("review", "account", "admin", "campaign"):
        page.goto(f"{address}/{name}")
        assert page.get_attribute("html", "data-theme") == theme
        for now in (width, 1790 - width):  # narrow, then wide, and the other way round
            page.set_viewport_size({"width": now, "height": 1000})
            assert page.evaluate("document.documentElement.scrollWidth") <= now
        page.set_viewport_size({"width": width, "height": 1000})
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") != theme


def test_a_reviewers_campaign_page_offers_nothing_that_is_refused(enter):
    page = enter("anna")
    page.click("nav >> text=Campaign")
    page.wait_for_selector("text=Only an administrator can start, pause and resume campaigns")
    assert not page.is_visible("#begin")
    assert not page.is_visible("#control")
    page.click("#nav >> text=Account")
    page.wait_for_url("**/account")


def test_explore_is_behind_the_same_door(enter, visit, address):
    assert visit(f"{address}/explore").url.endswith("/login")
    page = enter("vera")
    page.click("nav >> text=Explore")
    page.wait_for_selector("#tiles .value")
