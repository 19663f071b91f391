"""Client of the Sightline inspection server: a verdict, a mask and a sentence for a picture of a part."""

from importlib.resources import files

from . import aio
from .calls import Options, Sending
from .client import Client
from .errors import Cancelled, InvalidInput, NotInspected, Overloaded, ServerFault, Timeout, UnknownProduct, Unreachable
from .policy import Settings
from .report import Complete, Defect, Event, Expert, Part, Piece, Report, Segment, Verdict
from .session import AsyncChat, Chat
from .tls import Tls

__version__ = files(__name__).joinpath("VERSION").read_text().strip()

__all__ = [
    "AsyncChat", "Cancelled", "Chat", "Client", "Complete", "Defect", "Event", "Expert", "InvalidInput", "NotInspected", "Options",
    "Overloaded", "Part", "Piece", "Report", "Segment", "Sending", "ServerFault", "Settings", "Timeout", "Tls", "UnknownProduct",
    "Unreachable", "Verdict", "aio",
]  # fmt: skip
