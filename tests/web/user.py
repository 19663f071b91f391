"""What a person does with the page, and what they see."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, expect

PATIENCE_MS = 60_000
# Every text that the banner ever had: a sentence that is written word by word is seen as such.
HISTORY = """() => { const banner = document.querySelector('#banner'); window.banners = [];
    const note = () => { const told = banner.innerText; if (window.banners.at(-1) !== told) window.banners.push(told); };
    new MutationObserver(note).observe(banner, {childList: true, subtree: true, characterData: true}); }"""


class User:
    def __init__(self, page: Page, address: str, shots: Path) -> None:
        self.page, self.address, self.shots = page, address, shots
        self.requests: list[str] = []
        self.faults: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda said: self.faults.append(said.text) if "Content Security Policy" in said.text else None)
        page.goto(address)
        self.see("#server", "ready")
        page.evaluate(HISTORY)

    def strangers(self) -> list[str]:
        """Addresses asked for that are not the page's own."""
        return [url for url in self.requests if not url.startswith((self.address, "data:", "blob:"))]

    def see(self, place: str, text: str) -> None:
        expect(self.page.locator(place)).to_contain_text(text, timeout=PATIENCE_MS)

    def enabled(self) -> dict[str, bool]:
        return {name: self.page.locator(f"#{name}").is_enabled() for name in ("alarm", "learn", "missed")}

    def give(self, picture: Path) -> None:
        self.page.set_input_files("#upload input[type=file]", picture)
        self.see("#banner", f"{picture.name}: ready")

    def inspect(self, product: str = "") -> str:
        """Presses the button and waits for a complete answer; what the banner says."""
        if product:
            self.choose(product)
        self.page.evaluate("window.banners.length = 0")
        self.page.click("#inspect")
        self.page.wait_for_function("['NOT INSPECTED', ' ms'].some(word => (window.banners.at(-1) || '').includes(word))")
        return self.banner()

    def choose(self, product: str) -> None:
        self.page.fill("#product input", product)
        self.page.click(f"ul[role=listbox] li:has-text('{product}')")

    def banner(self) -> str:
        return self.page.inner_text("#banner")

    def sentence(self) -> str:
        return self.page.inner_text("#banner .sentence")

    def banners(self) -> list[str]:
        return list(self.page.evaluate("window.banners"))

    def result(self) -> Image.Image:
        """The picture of the answer, as the browser got it."""
        source = self.page.locator("#result img").get_attribute("src")
        assert source is not None
        return Image.open(io.BytesIO(self.page.request.get(source).body())).convert("RGB")

    def layer(self, name: str) -> Image.Image:
        """Shows another layer of the answer, and waits for its picture."""
        before = self.page.locator("#result img").get_attribute("src")
        self.page.click(f'#layer label:has-text("{name}")')
        self.page.wait_for_function("before => document.querySelector('#result img').getAttribute('src') !== before", arg=before)
        return self.result()

    def click_at(self, x: float, y: float) -> None:
        """On the part's picture, in shares of its sides."""
        box = self.page.locator("#view img").bounding_box()
        assert box is not None
        self.page.mouse.click(box["x"] + box["width"] * x, box["y"] + box["height"] * y)

    def pull(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """The mouse, held down from one place of the part's picture to the other; it may leave the picture."""
        box = self.page.locator("#view img").bounding_box()
        assert box is not None
        mouse = self.page.mouse
        mouse.move(box["x"] + box["width"] * x0, box["y"] + box["height"] * y0)
        mouse.down()
        mouse.move(box["x"] + box["width"] * x1, box["y"] + box["height"] * y1, steps=5)
        expect(self.page.locator("#band")).to_be_visible()
        mouse.up()
        expect(self.page.locator("#band")).to_have_count(0)

    def box(self) -> list[float]:
        """The numbers in the field."""
        return [float(value) for value in self.page.input_value("#box input, #box textarea").split(",") if value.strip()]

    def ask(self, question: str) -> str:
        """A further question; its answer when it is complete."""
        self.page.fill("#question textarea", question)
        self.page.click("#ask")
        expect(self.page.locator("#stop")).to_be_enabled(timeout=PATIENCE_MS)
        expect(self.page.locator("#stop")).to_be_disabled(timeout=PATIENCE_MS)
        return self.page.locator("#chat .bot.message").last.inner_text().strip()

    def enroll(self, name: str, pictures: Sequence[Path], description: str) -> None:
        self.tab("Products")
        self.page.fill("#name input, #name textarea", name)
        self.page.set_input_files("#good input[type=file]", list(pictures))
        self.see("#good", pictures[-1].stem)
        self.page.fill("#description textarea", description)
        self.page.click("#enroll")
        self.see("#outcome", f"{name} is enrolled from {len(pictures)} pictures")

    def tab(self, name: str) -> None:
        self.page.click(f"button[role=tab]:has-text('{name}')")

    def shoot(self, name: str, **how: Any) -> None:
        self.page.mouse.move(2, 2)
        self.page.screenshot(path=self.shots / f"{name}.png", **how)
