"""The services that `twistd` finds, and nothing else: what they name is imported only when it is used."""

from twisted.application.service import ServiceMaker

mtlsd = ServiceMaker(
    "mtlsd",
    "mtlsd.tap",
    "A front door in which every client is let in by its own certificate.",
    "mtlsd",
)
