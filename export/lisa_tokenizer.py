"""A Llama checkpoint's `tokenizer.model` (sentencepiece, byte-pair encoding) as a `tokenizers.Tokenizer`.

It gives the ids of raw sentencepiece, which is what LISA's reference amounts to (transformers 4.31's slow tokenizer), whatever
version of transformers is installed: none is needed. It knows no added tokens and finds no special ones in a text; the
template's are looked up by name (`ensemble/lisa/prompt.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers

from .checkpoint import CheckpointError

FILE = "tokenizer.model"
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # sentencepiece_model.proto, ModelProto.SentencePiece.Type
_BPE = 2  # TrainerSpec.ModelType
_SPACE = "\u2581"


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    kind: int


def read_tokenizer(folder: Path) -> Tokenizer:
    """Raises CheckpointError where the file is missing, damaged, or of another kind than Llama's."""
    pieces = read_pieces(folder / FILE)
    vocab = {piece.text: i for i, piece in enumerate(pieces)}
    unknown = next((piece.text for piece in pieces if piece.kind == UNKNOWN), None)
    made = Tokenizer(models.BPE(vocab, merges(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    made.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return made


def merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Every way to make a piece of two, the best-scored piece first."""
    scores = {piece.text: (-piece.score, i) for i, piece in enumerate(pieces) if piece.kind == NORMAL}
    ways = [(text[:cut], text[cut:]) for text in scores for cut in range(1, len(text)) if text[:cut] in scores and text[cut:] in scores]
    return sorted(ways, key=lambda way: (scores[way[0] + way[1]], scores[way[0]][1], scores[way[1]][1]))


def read_pieces(path: Path) -> list[Piece]:
    """The vocabulary, in order of id."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent.name}/{path.name}: no such file; expected the checkpoint's sentencepiece model")
    try:
        model = list(_fields(path.read_bytes()))
        pieces = [_piece(value) for number, value in model if number == 1]
        trainer, normaliser = (dict(_fields(next((v for n, v in model if n == wanted), b""))) for wanted in (2, 3))
    except (IndexError, KeyError, AttributeError, ValueError, TypeError, struct.error):
        raise CheckpointError(f"{path.name}: damaged or no sentencepiece model") from None
    kinds = {piece.kind for piece in pieces}
    llama = (
        trainer.get(3, 1) == _BPE and trainer.get(35, 0) == 1 and not trainer.get(24, 0)  # byte-pair encoding with bytes to fall back on
        and not normaliser.get(2) and normaliser.get(3, 1) == 1 and normaliser.get(4, 1) == 0  # text as it is, a space before it
        and kinds <= {NORMAL, UNKNOWN, CONTROL, BYTE}
    )  # fmt: skip
    if not pieces or not llama:
        raise CheckpointError(f"{path.name}: no Llama tokenizer; expected byte-pair encoding with byte fallback and text unchanged")
    return pieces


def _piece(content: bytes) -> Piece:
    fields = dict(_fields(content))
    return Piece(fields[1].decode(), struct.unpack("<f", fields.get(2, b"\0" * 4))[0], fields.get(3, NORMAL))


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protobuf message: integers, and bytes of everything else."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(content, at)
            yield number, value
            continue
        size, at = _varint(content, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + size > len(content):
            raise ValueError("cut off")
        yield number, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
