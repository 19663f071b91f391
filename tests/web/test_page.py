"""The page in a real browser, before a real server: each thing a person can do with it, judged by what the server itself says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import sightline
from PIL import Image
from sightline import draw
from sightline.feedback import Feedback
from sightline.pictures import to_rgb
from sightline.web.app import POLICY

from .conftest import Web, of
from .user import User

BAD, GOOD, NORMAL = of("test", 1)[0].path, of("test", 0)[3].path, [cell.path for cell in of("train", 0)[:4]]
SCALE = 480 / 300  # of ELPV's cells, as the page shows them
QUESTION = "What could have caused it?"


def alike(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and float(np.abs(np.asarray(one, np.float32) - np.asarray(other.convert("RGB"), np.float32)).mean()) < 1


def test_a_verdict_an_overlay_and_a_sentence_as_it_is_written(user: User, client: sightline.Client) -> None:
    user.give(BAD)
    banner, report = user.inspect(), client.inspect(BAD)
    assert report.anomaly and "✗" in banner and "ANOMALY" in banner and f"score {report.score_text}" in banner and BAD.name in banner
    assert user.sentence() == report.text and ", ".join(report.locations) in banner
    written = [told.splitlines()[-1].rstrip("▍") for told in user.banners() if "▍" in told]
    assert len(written) >= 3 and all(report.text.startswith(text) for text in written), "word by word, each what is said in the end"
    assert written == sorted(written, key=len) and len(written[0]) < len(report.text)
    assert all("ANOMALY" in told for told in user.banners() if "▍" in told), "the verdict comes before its sentence"
    assert alike(user.result(), draw.marked(to_rgb(BAD), report, SCALE))
    assert alike(user.layer("Picture"), to_rgb(BAD).resize((480, 480), Image.Resampling.LANCZOS))
    assert not alike(user.layer("Defects"), user.layer("Picture"))


def test_further_questions_remember_the_first(user: User, client: sightline.Client) -> None:
    user.give(BAD)
    user.inspect()
    chat = client.chat(BAD)
    chat.ask()
    assert user.ask(QUESTION) == chat.ask(QUESTION).text
    assert user.ask("Where is it?") == chat.ask("Where is it?").text
    assert user.page.locator("#chat .user.message").count() == 2
    user.layer("Picture")
    user.layer("Defects")
    user.shoot("inspected", full_page=True)
    user.page.click("#chat button[aria-label='Clear']")
    user.page.wait_for_function("() => !document.querySelector('#chat .bot.message')")
    del chat.history[2:]
    assert user.ask("Is it deep?") == chat.ask("Is it deep?").text


def test_two_clicks_set_a_box(user: User, client: sightline.Client) -> None:
    user.give(GOOD)
    user.click_at(0.85, 0.9)
    user.see("#hint", "opposite corner")
    user.click_at(0.15, 0.1)
    user.see("#hint", "only the part inside")
    box = user.box()
    assert np.abs(np.array(box) - [45, 30, 255, 270]).max() <= 3
    user.inspect()
    report = client.inspect(GOOD, box=box)
    assert report.part is not None and f"score {report.score_text}" in user.banner()
    expected = draw.marked(to_rgb(GOOD), report, SCALE)
    assert (np.asarray(expected) == draw.PART).all(-1).any() and alike(user.result(), expected)
    user.page.click("#clear")
    user.see("#hint", "Pull a box")
    assert user.box() == []


def test_a_box_is_pulled_over_the_picture(user: User, client: sightline.Client) -> None:
    user.give(GOOD)
    user.pull(0.85, 0.9, 0.15, 0.1)
    user.see("#hint", "Box ")
    assert np.abs(np.array(user.box()) - [45, 30, 255, 270]).max() <= 2
    user.shoot("box")
    user.inspect()
    report = client.inspect(GOOD, box=user.box())
    assert report.part is not None and f"score {report.score_text}" in user.banner()
    user.pull(0.5, 0.5, 1.4, 1.2)  # another one, which ends at the picture's edge
    user.page.wait_for_function("() => document.querySelector('#box input, #box textarea').value === '150, 150, 300, 300'")
    user.page.click("#clear")
    user.see("#hint", "Pull a box")
    user.pull(0.5, 0.5, 1.4, 1.2)  # the same once more
    user.see("#hint", "Box 150, 150, 300, 300")
    user.click_at(0.2, 0.2)  # clicks are still corners
    user.see("#hint", "opposite corner")


def test_what_is_not_inspected_has_no_verdict(user: User, tmp_path: Path) -> None:
    user.give(GOOD)
    user.inspect()
    assert user.enabled()["missed"] or user.enabled()["alarm"]
    broken = tmp_path / "broken.png"
    broken.write_text("this is no picture")
    user.give(broken)
    assert "NORMAL" not in user.banner() and "ANOMALY" not in user.banner(), "another picture's verdict is gone"
    user.inspect()
    assert "NOT INSPECTED" in user.banner() and "InvalidInput: IMAGE" in user.banner() and broken.name in user.banner()
    assert not any(word in told for told in user.banners() for word in ("NORMAL", "ANOMALY", "score"))
    assert not any(user.enabled().values()) and user.page.locator("#result img").count() == 0
    user.shoot("not_inspected")


def test_a_server_that_is_not_there(user: User) -> None:
    user.page.fill("#url input, #url textarea", "localhost:1")
    user.page.press("#url input, #url textarea", "Enter")
    user.see("#server", "no answer")
    user.give(GOOD)
    assert "NOT INSPECTED" in user.inspect() and "Unreachable" in user.banner()


def test_a_product_is_enrolled_used_described_and_removed(user: User, client: sightline.Client) -> None:
    user.enroll("bracket", NORMAL, "A solar cell.")
    user.see("#listing", "bracket")
    assert client.describe("bracket")["product"]["images"] == len(NORMAL)
    user.tab("Inspect")
    user.give(BAD)
    user.inspect("bracket")
    report = client.inspect(BAD, product="bracket")
    assert f"score {report.score_text}" in user.banner() and report.heatmap is not None
    assert alike(user.layer("Expert's map"), draw.heated(to_rgb(BAD), report.heatmap, SCALE))
    user.shoot("product")
    user.tab("Products")
    user.page.fill("#chosen input", "bracket")
    user.page.click("ul[role=listbox] li:has-text('bracket')")
    user.page.click("#describe")
    user.see("#recipe", "A solar cell.")
    user.page.click("#remove")
    user.see("#outcome", "bracket is removed")
    assert "bracket" not in user.page.inner_text("#listing")
    assert "bracket" not in [product["name"] for product in client.products()["products"]]


def false_alarm(client: sightline.Client, product: str) -> Path:
    """A good cell that the server calls an anomaly by its expert's word, and not by much."""
    for cell in of("test", 0)[:80]:
        report = client.inspect(cell.path, product=product)
        if report.anomaly and report.score < 0.7 and report.experts[0].score >= 0.5:
            return cell.path
    raise AssertionError("no good cell is a false alarm")


def test_a_false_alarm_is_learnt_and_the_effect_is_shown(user: User, client: sightline.Client, web: Web) -> None:
    user.enroll("plate", NORMAL, "A solar cell.")
    user.tab("Inspect")
    picture = false_alarm(client, "plate")
    before = client.inspect(picture, product="plate")
    user.give(picture)
    user.inspect("plate")
    assert user.enabled() == {"alarm": True, "learn": True, "missed": False}
    user.page.fill("#operator input, #operator textarea", "Ada")
    user.page.click("#learn")
    user.see("#effect", f"plate now compares with {len(NORMAL) + 1} normal pictures")
    after = client.inspect(picture, product="plate")
    assert after.score < before.score and after.experts[0].score < 0.1
    shown = user.page.inner_text("#effect")
    assert f"ANOMALY {before.score_text}" in shown and f"{after.verdict.upper()} {after.score_text}" in shown
    assert ("has learnt it" in shown) == (not after.anomaly) and not any(user.enabled().values())
    assert f"score {after.score_text}" in user.banner() and user.sentence() == after.text
    mark = Feedback(web.feedback).marks()[-1]
    assert (mark.mistake, mark.product, mark.operator, mark.accepted) == ("false_alarm", "plate", "Ada", True)
    assert Feedback(web.feedback).picture(mark) == picture.read_bytes()
    user.shoot("learnt")
    client.remove("plate")


def test_a_missed_defect_is_kept(user: User, client: sightline.Client, web: Web) -> None:
    picture = next(cell.path for cell in of("test", 0) if not client.inspect(cell.path).anomaly)
    user.give(picture)
    assert "✓" in user.inspect() and "NORMAL" in user.banner()
    assert user.enabled() == {"alarm": False, "learn": False, "missed": True}
    user.page.fill("#remark input, #remark textarea", "a hairline crack")
    user.page.click("#missed")
    user.see("#effect", "Kept as missed")
    mark = Feedback(web.feedback).marks()[-1]
    assert (mark.mistake, mark.note, mark.report["verdict"]) == ("missed", "a hairline crack", "normal")
    assert not any(user.enabled().values()), "one answer is marked once"


def test_a_sample_is_one_click_away(user: User, client: sightline.Client) -> None:
    user.page.click("#samples button >> nth=1")
    user.see("#banner", "ready to be inspected")
    name = user.banner().split(":")[0]
    user.inspect()
    path = next(cell.path for cell in [*of("test", 1)[:2], *of("test", 0)[:2]] if cell.path.name == name)
    assert client.inspect(path).score_text in user.banner()


def test_two_users_at_once_see_their_own(arrive: Callable[[], User], client: sightline.Client) -> None:
    users, pictures = (arrive(), arrive()), (BAD, GOOD)
    for user, picture in zip(users, pictures, strict=True):
        user.give(picture)
    for user in users:
        user.page.click("#inspect")
    for user, picture in zip(users, pictures, strict=True):
        user.see("#banner .about", " ms")
        report = client.inspect(picture)
        assert picture.name in user.banner() and f"score {report.score_text}" in user.banner() and user.sentence() == report.text
    users[0].ask(QUESTION)
    assert QUESTION in users[0].page.inner_text("#chat") and QUESTION not in users[1].page.inner_text("#chat")


def test_a_closed_network_is_enough(user: User, web: Web) -> None:
    """What browsers ask for is judged after each test; here the process, and the header that holds a browser to it."""
    answer = user.page.request.get(web.address)
    assert answer.headers["content-security-policy"] == POLICY
    outside = "http://sightline.invalid"
    blocked = user.page.evaluate(
        """url => new Promise(done => { document.addEventListener('securitypolicyviolation', event => done(event.blockedURI));
            fetch(url).catch(() => 0); })""",
        outside,
    )
    assert blocked.startswith(outside)
    user.requests, user.faults = [url for url in user.requests if not url.startswith(outside)], []
    assert len(user.requests) > 20 and not web.witness.exists(), "the page's process asked somebody outside this machine"
