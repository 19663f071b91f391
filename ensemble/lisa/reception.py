"""From a request to a sequence: what is asked as tokens, what is known of the answer, and how long it may be."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace

import numpy as np

from ..errors import invalid
from .config import LisaConfig
from .guide import Guide
from .limits import Limits
from .prompt import Prompter, too_long
from .sequence import OnEvent, Request, Sequence


@dataclass(frozen=True)
class Reception:
    config: LisaConfig
    prompter: Prompter
    guide: Guide
    limits: Limits

    @staticmethod
    def live(_: tuple[int, int]) -> str:
        """The state of every ticket, where there is no ledger."""
        return "live"

    def sequence(self, request: Request, on_event: OnEvent) -> Sequence:
        """RequestError INVALID_ARGUMENT where it cannot become one."""
        if request.look and self.config.verdict is None:  # then it looks by answering
            request = replace(request, look=False)
        features = np.ascontiguousarray(request.features, dtype=np.float32)
        if features.ndim != 2 or features.shape[1] != self.config.image_width or not np.isfinite(features).all():
            raise invalid("image_features", f"expected finite [T, {self.config.image_width}], got {list(features.shape)}")
        ids, opening = self.prompter.build(request.question, request.history, len(features)), self.guide.opening(request)
        silent, room = self.guide.silent(opening), self.config.context - len(ids)
        limit = max(1, min(request.max_tokens, room - silent))
        if len(opening) >= room:
            raise too_long(request.history, len(ids), self.config.context)
        digest = hashlib.blake2b(features.tobytes(), digest_size=16).digest()
        deadline = request.ticket[1] or time.monotonic_ns() + int(self.limits.patience * 1e9)
        return Sequence(request, on_event, ids + opening, len(ids), limit, digest, deadline, silent=silent)
