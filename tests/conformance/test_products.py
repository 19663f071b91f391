"""`products`: enrol, list, describe, remove; limits, names, atomicity; and that the next request sees them."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from .helpers import INVALID, NOT_FOUND, ask, encode, refuse, sample_cells

PREFIX = f"conformance-{os.getpid()}"  # the server may hold other people's products
TINY = encode(np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8))


@pytest.fixture(scope="module")
def normal() -> list[bytes]:
    return [cell.path.read_bytes() for cell in sample_cells(0.0, 8)]


@pytest.fixture(autouse=True, scope="module")
def clean(grpc):
    yield
    for name in listed(grpc):
        if name.startswith(PREFIX):
            act(grpc, "remove", NAME=name)


def act(grpc, action: str, **values):
    return ask(grpc, "products", ACTION=action, **values)


def listed(grpc) -> list[str]:
    return [product["name"] for product in act(grpc, "list").report["products"]]


@pytest.fixture(scope="module")
def cell(grpc, normal) -> str:
    """An enrolled product."""
    name = f"{PREFIX}-cell"
    act(grpc, "enroll", NAME=name, IMAGES=normal, DESCRIPTION="A photovoltaic cell under current", PROMPT="Is this cell cracked?")
    return name


def test_enrolled_products_are_listed_and_described(grpc, cell):
    assert listed(grpc).count(cell) == 1
    described = act(grpc, "describe", NAME=cell)
    assert described.outputs["REPORT"].shape == (1,)
    told = described.report["product"]
    assert (
        told["name"] == cell and told["images"] == 8 and "photovoltaic" in told["description"] and told["prompt"] == "Is this cell cracked?"
    )


def test_the_next_request_may_use_it(grpc, cell, bad):
    report = ask(grpc, outputs=("REPORT",), IMAGE=bad.picture, PRODUCT=cell, MAX_TOKENS=1).report
    (expert,) = report["experts"]
    assert expert["references"] == 8 and expert["text"] in report["prompt"]
    assert "A photovoltaic cell under current" in report["prompt"] and report["prompt"].endswith("Is this cell cracked?")


def test_the_callers_prompt_comes_before_the_products(grpc, cell, bad):
    prompt = ask(grpc, outputs=("REPORT",), IMAGE=bad.picture, PRODUCT=cell, PROMPT="Which finger is dark?", MAX_TOKENS=1).report["prompt"]
    assert prompt.endswith("Which finger is dark?") and "cracked" not in prompt


def test_product_and_references_together(grpc, cell, bad, good):
    report = ask(grpc, outputs=("REPORT",), IMAGE=bad.picture, PRODUCT=cell, REFERENCE=[good.picture], MAX_TOKENS=1).report
    assert report["experts"][0]["references"] == 9


def test_products_are_seen_changed_and_gone_at_once(grpc, normal):
    name = f"{PREFIX}-soon"

    def references() -> int:
        return ask(grpc, outputs=("REPORT",), IMAGE=normal[0], PRODUCT=name, MAX_TOKENS=1).report["experts"][0]["references"]

    refuse(grpc, NOT_FOUND, "PRODUCT", name, IMAGE=normal[0], PRODUCT=name)
    act(grpc, "enroll", NAME=name, IMAGES=normal[:2])
    assert references() == 2
    act(grpc, "enroll", NAME=name, IMAGES=normal[:3])
    assert references() == 3
    act(grpc, "remove", NAME=name)
    refuse(grpc, NOT_FOUND, "PRODUCT", name, IMAGE=normal[0], PRODUCT=name)
    assert name not in listed(grpc)


def test_a_products_box_is_its_cut_out_rule(grpc, normal):
    name, box = f"{PREFIX}-box", [20.0, 30.0, 280.0, 270.0]
    act(grpc, "enroll", NAME=name, IMAGES=normal[:2], BOX=box)
    assert act(grpc, "describe", NAME=name).report["product"]["box"] == pytest.approx(box)
    part = ask(grpc, outputs=("REPORT",), IMAGE=normal[3], PRODUCT=name, MAX_TOKENS=1).report["part"]
    assert part["box"] == pytest.approx(box)


def test_one_image_is_enough_and_500_are_allowed(grpc):
    name = f"{PREFIX}-many"
    act(grpc, "enroll", NAME=name, IMAGES=[TINY])
    assert act(grpc, "describe", NAME=name).report["product"]["images"] == 1
    act(grpc, "enroll", NAME=name, IMAGES=[TINY] * 500)
    assert act(grpc, "describe", NAME=name).report["product"]["images"] == 500


def test_images_are_1_to_500_good_ones(grpc):
    name = f"{PREFIX}-none"
    refuse(grpc, INVALID, "IMAGES", "500", model="products", ACTION="enroll", NAME=name)
    refuse(grpc, INVALID, "IMAGES", "500", model="products", ACTION="enroll", NAME=name, IMAGES=[])
    refuse(grpc, INVALID, "IMAGES", "500", model="products", ACTION="enroll", NAME=name, IMAGES=[TINY] * 501)
    refuse(grpc, INVALID, "IMAGES", "expected", model="products", ACTION="enroll", NAME=name, IMAGES=[TINY, b"not a picture"])
    assert name not in listed(grpc)


def test_names(grpc):
    longest = f"{PREFIX}_-0az".ljust(64, "x")
    act(grpc, "enroll", NAME=longest, IMAGES=[TINY])
    assert longest in listed(grpc)
    for name in ("", "x" * 65, "Cell", "a b", "../x", "a/b", "a.b", "zelle-ä", b"\xff", "a\n", "a\x00"):
        refuse(grpc, INVALID, "NAME", "1 to 64", model="products", ACTION="enroll", NAME=name, IMAGES=[TINY])
        refuse(grpc, INVALID, "NAME", model="products", ACTION="remove", NAME=name)
        refuse(grpc, INVALID, "PRODUCT", IMAGE=TINY, PRODUCT=name)
    refuse(grpc, INVALID, "NAME", model="products", ACTION="enroll", IMAGES=[TINY])


def test_unknown_actions_and_products(grpc):
    for action in ("", "ENROLL", "delete", b"\xff"):
        refuse(grpc, INVALID, "ACTION", model="products", ACTION=action)
    refuse(grpc, INVALID, "ACTION", "enroll", "list", "describe", "remove", model="products", ACTION="rename")
    for action in ("describe", "remove"):
        refuse(grpc, NOT_FOUND, f"{PREFIX}-unknown", model="products", ACTION=action, NAME=f"{PREFIX}-unknown")


def test_other_inputs_of_enrolment_are_checked(grpc):
    given = {"model": "products", "ACTION": "enroll", "NAME": f"{PREFIX}-odd", "IMAGES": [TINY]}
    refuse(grpc, INVALID, "PROMPT", "2000", PROMPT="x" * 2001, **given)
    refuse(grpc, INVALID, "DESCRIPTION", "UTF-8", DESCRIPTION=b"\xff", **given)
    for box in ([5.0, 5.0, 5.0, 9.0], [np.nan, 0.0, 9.0, 9.0], [20.0, 0.0, 30.0, 9.0]):
        refuse(grpc, INVALID, "BOX", "expected", BOX=box, **given)
    assert given["NAME"] not in listed(grpc)


def test_a_failed_enrolment_leaves_the_old_product(grpc, cell, bad):
    before = act(grpc, "describe", NAME=cell).report
    refuse(grpc, INVALID, "IMAGES", model="products", ACTION="enroll", NAME=cell, IMAGES=[TINY, TINY[: len(TINY) // 2]])
    assert act(grpc, "describe", NAME=cell).report == before
    assert ask(grpc, outputs=("REPORT",), IMAGE=bad.picture, PRODUCT=cell, MAX_TOKENS=1).report["experts"][0]["references"] == 8


def test_writers_and_readers_never_see_half_a_product(grpc, normal):
    name = f"{PREFIX}-race"
    act(grpc, "enroll", NAME=name, IMAGES=[TINY] * 3)

    def write(count: int) -> None:
        act(grpc, "enroll", NAME=name, IMAGES=[TINY] * count)

    def read(_: int) -> int:
        return ask(grpc, outputs=("REPORT",), IMAGE=TINY, PRODUCT=name, MAX_TOKENS=1).report["experts"][0]["references"]

    with ThreadPoolExecutor(6) as pool:
        writers = [pool.submit(write, 3 + index % 2) for index in range(6)]
        read_counts = [pool.submit(read, index) for index in range(6)]
        for writer in writers:
            writer.result()
        assert {reader.result() for reader in read_counts} <= {3, 4}
    assert act(grpc, "describe", NAME=name).report["product"]["images"] in (3, 4)


def test_removing_while_it_is_read_gives_an_answer_or_not_found(grpc, normal):
    name = f"{PREFIX}-leaving"
    act(grpc, "enroll", NAME=name, IMAGES=[TINY] * 3)

    def read(_: int) -> str:
        try:
            return ask(grpc, outputs=("REPORT",), IMAGE=TINY, PRODUCT=name, MAX_TOKENS=1).report["verdict"]
        except InferenceServerException as error:
            return error.status()

    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(read, index) for index in range(4)]
        act(grpc, "remove", NAME=name)
        assert {one.result() for one in reads} <= {"normal", "anomaly", "StatusCode.NOT_FOUND"}
    assert json.dumps(act(grpc, "list").report).count(name) == 0
