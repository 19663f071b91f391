"""Client of the Sightline inspection server: a verdict, a mask and a sentence for a picture of a part."""

from importlib.resources import files

from . import aio
from .client import Client
from .errors import InvalidInput, NotInspected, Overloaded, ServerFault, Timeout, UnknownProduct, Unreachable
from .report import Complete, Defect, Event, Expert, Part, Piece, Report, Segment, Verdict

__version__ = files(__name__).joinpath("VERSION").read_text().strip()

__all__ = [
    "Client", "Complete", "Defect", "Event", "Expert", "InvalidInput", "NotInspected", "Overloaded", "Part", "Piece", "Report",
    "Segment", "ServerFault", "Timeout", "UnknownProduct", "Unreachable", "Verdict", "aio",
]  # fmt: skip
