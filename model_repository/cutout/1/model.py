"""Removes the part's background; makes the vision encoder's input, and the answer of `segment`."""

import time
from pathlib import Path

import numpy as np
from sightline_ensemble import cutout, ledger, steps
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.picture import window_of


class TritonPythonModel:
    def initialize(self, args):
        self.dims = load_manifest(Path(args["model_repository"]).parent / "vision_encoder").dims

    def execute(self, requests):
        return steps.answer_each(requests, self.answer, "cutout", ticket="release")

    def answer(self, request):
        start, wanted = time.monotonic_ns(), set(request.requested_output_names())
        outputs = {}
        if "vision_pixels" in wanted:
            outputs["vision_pixels"] = cutout.vision_pixels(self.part(request), self.dims)
        if wanted & {"MASK", "IOU", "CUTOUT"}:
            outputs |= self.segment(request, wanted)
        if (release := steps.array(request, "release")) is not None:
            ledger.check(ledger.as_ticket(release))
            ledger.release(ledger.as_ticket(release))
        return outputs | {"cutout_clock": steps.clock(start)}

    def part(self, request):
        pixels = steps.array(request, "part_pixels")
        if not len(steps.array(request, "part_box")):
            return pixels
        return cutout.without_background(pixels, self.mask(request, pixels.shape[:2]))

    def mask(self, request, shape):
        original = tuple(steps.array(request, "original_size").tolist())
        resized = tuple(steps.array(request, "resized_size")[0].tolist())
        window = window_of(steps.array(request, "part_box"), *original)
        return cutout.part_mask(steps.array(request, "part_masks")[0, 0], resized, original, window, shape)

    def segment(self, request, wanted):
        pixels = steps.array(request, "pixels")
        outputs = {"IOU": steps.array(request, "part_ious")[0].astype(np.float32)}
        mask = self.mask(request, pixels.shape[:2])
        if "MASK" in wanted:
            original = steps.array(request, "original_size").tolist()
            x0, y0, x1, y1 = window_of(steps.array(request, "part_box"), *original)
            outputs["MASK"] = np.zeros(original, np.uint8)
            outputs["MASK"][y0:y1, x0:x1] = mask
        if "CUTOUT" in wanted:
            outputs["CUTOUT"] = steps.string(cutout.png(cutout.without_background(pixels, mask)))
        return outputs

    def finalize(self):
        steps.finish()
