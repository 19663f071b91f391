"""From what a user does to what the page shows. No Gradio here: inputs in, `Update`s out; whatever has no verdict says so."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import Cancelled, InvalidInput, NotInspected, ServerFault
from ..feedback import Mistake
from ..report import Complete, Piece, Verdict
from . import pictures, words
from .plant import Plant
from .session import Session, Update

LOG = logging.getLogger(__name__)
NOTHING: Update = {
    "banner": words.EMPTY, "result": None, "chat": [], "question": "", "effect": "", "report": None,
    "alarm": False, "learn": False, "missed": False, "running": False,
}  # fmt: skip
ALIKE = "Choose a product, and no box or pictures of your own: a product learns a picture as it inspects it."


def take(path: str | Path) -> Update:
    """Another picture: nothing of the answer before it stays on the page. The place to drop one is free again."""
    try:
        content = Path(path).read_bytes()
    except OSError:  # swept meanwhile: then there is no picture, rather than the one before
        content = b""
    session = pictures.opened(Path(path).name, content)
    hint = words.HINT if session.seen is not None else "This file cannot be shown here; the server will say what it is."
    told = words.note(f"{session.name}: ready to be inspected.")
    empty: Update = {**NOTHING, "session": session, "upload": None, "box": ""}
    return {**empty, "view": session.seen, "hint": words.note(hint), "banner": told}


def click(session: Session, x: float, y: float) -> Update:
    """A corner of the box, in pixels of what is shown. The second one completes it, a third begins anew."""
    here = (x / session.scale, y / session.scale)
    box = pictures.spanned(session.corner, here) if session.corner else None
    now = replace(session, corner=None if box else here)
    told = f"Box {pictures.write_box(box)}: only the part inside is inspected." if box else words.CORNER
    return {
        "session": now, "view": pictures.view(now, box), "box": pictures.write_box(box) if box else "", "hint": words.note(told),
    }  # fmt: skip


def drag(session: Session, corners: str) -> Update:
    """A box pulled over the picture: two corners, `x y x y` in shares of its sides, and the pull's number."""
    if session.seen is None:
        return {}
    width, height = session.seen.size
    x0, y0, x1, y1, _ = map(float, corners.split())
    begun = click(pictures.without_corner(session), x0 * width, y0 * height)
    return click(begun["session"], x1 * width, y1 * height)


def type_box(session: Session, text: str) -> Update:
    """The box by numbers; an empty field clears it."""
    now = pictures.without_corner(session)
    try:
        box = pictures.read_box(text)
    except InvalidInput as error:
        return {"session": now, "view": pictures.view(now, None), "hint": words.failure(error)}
    return {"session": now, "view": pictures.view(now, box), "hint": words.note(words.HINT)}


def clear_box(session: Session) -> Update:
    return {**type_box(session, ""), "box": ""}


def inspect(
    plant: Plant, url: str, session: Session, question: str, product: str | None, references: Sequence[str] | None, box: str, layer: str
) -> Iterator[Update]:
    """Verdict and mask as soon as they are known, then the sentence as it is written."""
    session = session.without_answer()
    if not session.picture:
        yield failed(session, InvalidInput("IMAGE: no picture was given"))
        return
    yield {**NOTHING, "session": session, "banner": words.busy(session.name), "running": True}
    try:
        product, place = (product or "").strip() or None, pictures.read_box(box)
        normal = [Path(path).read_bytes() for path in references or ()]
        chat = plant.client(url).chat(session.picture, product=product, box=place, reference=normal or None)
        session = replace(session, chat=chat, product=product, box=place, references=len(normal))
        text = ""
        for event in chat.stream(question.strip() or None):
            if isinstance(event, Verdict):
                session, text = replace(session, report=event.report), event.text
                drawn = pictures.layer(session, event.report, layer)
                yield {"banner": words.verdict(event.report, session.name, text, writing=True), "result": drawn}
            elif isinstance(event, Piece) and session.report is not None:
                text += event.text
                yield {"banner": words.verdict(session.report, session.name, text, writing=True)}
            elif isinstance(event, Complete):
                yield answered(replace(session, report=event.report), layer)
    except NotInspected as error:
        yield failed(session, error)
    except Exception as error:  # a fault of this page: never let the last banner stand for an answer
        LOG.exception("inspecting %s", session.name)
        yield failed(session, ServerFault(f"the page failed: {type(error).__name__}"))


def failed(session: Session, error: NotInspected) -> Update:
    return {**NOTHING, "session": session.without_answer(), "banner": words.not_inspected(session.name, error)}


def stopped(session: Session) -> Update:
    """What was known before stays: the verdict, while a further question is being answered."""
    if session.report is not None:
        return {"running": False}
    return failed(session, Cancelled("stopped by the user"))


def answered(session: Session, layer: str) -> Update:
    """A complete answer, and what an operator may say about it."""
    report = session.report
    assert report is not None
    return {
        "session": session,
        "banner": words.verdict(report, session.name, report.text),
        "result": pictures.layer(session, report, layer),
        "report": {"image": session.name, "request_id": report.request_id, **report.raw},
        "alarm": report.anomaly,
        "learn": report.anomaly and may_learn(session),
        "missed": not report.anomaly,
        "running": False,
        "effect": words.note(ALIKE) if report.anomaly and not may_learn(session) else "",
    }


def may_learn(session: Session) -> bool:
    return session.product is not None and session.box is None and not session.references


def switch(session: Session, layer: str) -> Update:
    if session.report is None:
        return {}
    told = words.note("No expert spoke: choose a product or give normal pictures.") if not session.report.experts else ""
    drawn = pictures.layer(session, session.report, layer)
    return {"result": drawn, "effect": told} if layer == pictures.MAP and told else {"result": drawn}


def ask(session: Session, question: str, turns: list[dict[str, str]]) -> Iterator[Update]:
    """A further question about the picture; one without an answer leaves no trace in what the server is told later."""
    question = question.strip()
    if session.chat is None or session.report is None or not question:
        return
    talk = [*turns, {"role": "user", "content": question}, {"role": "assistant", "content": "…"}]
    yield {"chat": talk, "question": "", "running": True}
    text = ""
    try:
        for event in session.chat.stream(question):
            text = event.report.text if isinstance(event, Complete) else text + event.text
            yield {"chat": [*talk[:-1], {"role": "assistant", "content": text}]}
        yield {"running": False}
    except NotInspected as error:
        told = f"! NOT ANSWERED · {type(error).__name__}: {error.message}"
        yield {"chat": [*talk[:-1], {"role": "assistant", "content": told}], "question": question, "running": False}


def forget(session: Session) -> Update:
    """The further questions are gone from the page, and from what the server is told; the first answer stays."""
    if session.chat is not None:
        del session.chat.history[2:]
    return {"chat": []}


def complain(plant: Plant, mistake: Mistake, session: Session, operator: str, remark: str) -> Update:
    """Keeps the answer as wrong, with picture and hashes."""
    if session.report is None or session.mark is not None:
        return {}
    try:
        mark = plant.feedback.mark(
            session.picture, session.report, mistake, product=session.product, operator=operator.strip(), note=remark.strip()
        )
    except NotInspected as error:
        return {"effect": words.failure(error)}
    told = words.note(f"Kept as {mistake.replace('_', ' ')}: {mark.id}", "good")
    return {"session": replace(session, mark=mark), "effect": told, "alarm": False, "missed": False}


def learn(plant: Plant, url: str, session: Session, operator: str, remark: str, layer: str) -> Iterator[Update]:
    """The false alarm becomes one of its product's normal pictures, and the picture is inspected again."""
    kept = complain(plant, "false_alarm", session, operator, remark)
    session = kept.get("session", session)
    if session.mark is None or session.product is None:
        yield kept
        return
    yield {**kept, "learn": False, "effect": words.note(f"{session.product} is being enrolled again …")}
    client = plant.client(url)
    try:
        effect = plant.feedback.accept(client, session.mark)
    except NotInspected as error:
        yield {"session": session, "effect": words.failure(error), "learn": True}
        return
    chat = client.chat(session.picture, product=session.product)
    shown = answered(replace(session, report=effect.after, chat=chat), layer)
    yield {**shown, "chat": [], "alarm": False, "learn": False, "missed": False, "effect": words.effect(effect, session.product)}


def connect(plant: Plant, url: str) -> Update:
    """What server this is, and its products."""
    client = plant.client(url)
    found = client.ready()
    return {"server": words.server(client.url, found), **(listed(plant, url) if found else {"listing": "", "choices": []})}


def listed(plant: Plant, url: str) -> Update:
    try:
        products: list[dict[str, Any]] = plant.client(url).products()["products"]
    except NotInspected as error:
        return {"listing": words.failure(error), "choices": []}
    return {"listing": words.products(products), "choices": [product["name"] for product in products]}


def enroll(plant: Plant, url: str, name: str, paths: Sequence[str] | None, description: str) -> Iterator[Update]:
    """Registers a product from normal pictures, which are kept for what operators say later."""
    yield {"outcome": words.note(f"{name} is being enrolled from {len(paths or ())} pictures …")}
    try:
        content = [Path(path).read_bytes() for path in paths or ()]
        plant.feedback.enroll(plant.client(url), name.strip(), content, description=description.strip() or None)
    except NotInspected as error:
        yield {"outcome": words.failure(error)}
        return
    yield {**listed(plant, url), "outcome": words.note(f"{name.strip()} is enrolled from {len(content)} pictures.", "good")}


def describe(plant: Plant, url: str, name: str | None) -> dict[str, Any]:
    """One product's recipe; where there is none, why."""
    try:
        return dict(plant.client(url).describe(name or "")["product"])
    except NotInspected as error:
        return {"error": error.as_json()}


def remove(plant: Plant, url: str, name: str | None) -> Update:
    try:
        plant.client(url).remove(name or "")
    except NotInspected as error:
        return {**listed(plant, url), "outcome": words.failure(error)}
    return {**listed(plant, url), "outcome": words.note(f"{name} is removed.", "good")}
