"""A SAM checkpoint in the released layout with random weights, made with Meta's own `segment-anything` package.

    python benchmarks/random_sam.py vit_b build/vit_b.pth

For everything that does not ask what the weights know: sizes, parity, speed. The published checkpoints are not in any package.
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path

import torch

STUBS = {
    "torchvision": (), "torchvision.ops": (), "torchvision.ops.boxes": ("batched_nms", "box_area"),
    "torchvision.transforms": (), "torchvision.transforms.functional": ("resize", "to_pil_image"),
}  # fmt: skip


def meta() -> types.ModuleType:
    """Meta's `segment_anything`. It imports torchvision for helpers that nobody here uses; there is no CPU build of that everywhere."""
    kept = {name: sys.modules.pop(name, None) for name in STUBS}
    for name, attributes in STUBS.items():
        sys.modules[name] = types.ModuleType(name)
        for attribute in attributes:
            setattr(sys.modules[name], attribute, None)
    import segment_anything

    for name, module in kept.items():  # at once: others look for the real one
        del sys.modules[name]
        if module is not None:
            sys.modules[name] = module
    return segment_anything


def random_sam(model: str) -> torch.nn.Module:
    """`model` of Meta's registry; the positions, which Meta's initialisation leaves at zero, are random too."""
    torch.manual_seed(0)
    sam = meta().sam_model_registry[model]().eval()
    for name, parameter in sam.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            torch.nn.init.normal_(parameter, std=0.1 if "rel_pos" in name else 0.5)
    return sam


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("vit_b", "vit_l", "vit_h"))
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(random_sam(chosen.model).state_dict(), chosen.out)


if __name__ == "__main__":
    main()
