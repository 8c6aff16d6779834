"""The files of the operator's folder as readings: whatever is wrong with one, it is told, and nothing is raised."""

from __future__ import annotations

from collections.abc import Callable

from mtlsd.errors import MtlsdError
from mtlsd.identity import Certificate
from mtlsd.registry.clients import Content, Reading
from mtlsd.registry.folder import File, Unsafe, read_file
from mtlsd.registry.listing import UNKNOWN
from mtlsd.registry.pem import certificates_in
from mtlsd.registry.terms import Terms, read_terms


class Reader:
    """Reads files for one look.  ``unsure``: one of them was too young to tell it from a later state."""

    def __init__(self, server_uid: int, wall: Callable[[], float]) -> None:
        """*wall* gives seconds since 1970."""
        self._server_uid = server_uid
        self._wall = wall
        self.unsure = False

    def fetched(self, folder: int, name: str, listed: bytes, absent: Content, *, link: Content | None) -> File | Reading[Content]:
        """Return the content of a file or, where it cannot be had, what there is to know instead.  Never raises.

        *absent* is what it means that the file is not there; *link* is what a link to nothing means, ``None`` where it
        is damage.
        """
        try:
            file = read_file(folder, name, server_uid=self._server_uid, wall=self._wall)
        except FileNotFoundError:
            if listed != UNKNOWN:
                # It went away since it was listed.
                return Reading(None, absent)
            why = "it is a symbolic link to a file that is not there"
            return Reading(None, None, why) if link is None else Reading(None, link, warnings=(why,))
        except Unsafe as error:
            return Reading(None, None, str(error), refused=True)
        except OSError as error:
            return Reading(None, None, f"cannot be read: {error.strerror}")
        self.unsure = self.unsure or file.signature is None
        return file

    def parsed(self, file: File, parse: Callable[[bytes], tuple[Content, tuple[str, ...]]]) -> Reading[Content]:
        """Return what a file says.  Never raises: one file that is beyond us must not stop the revoking of others."""
        try:
            content, warnings = parse(file.data)
        except MtlsdError as error:
            return Reading(file.signature, None, f"damaged: {error}")
        except Exception as error:
            return Reading(file.signature, None, f"damaged: {type(error).__name__}")
        if file.group_writable:
            warnings += ("its group may write to it; chmod g-w",)
        return Reading(file.signature, content, warnings=warnings)


def leaves_in(data: bytes) -> tuple[tuple[Certificate, ...], tuple[str, ...]]:
    """Return the certificates of a ``NAME.pem``, and what deserves a warning."""
    found = certificates_in(data)
    if not found.has_private_key:
        return found.leaves, ()
    return found.leaves, ("it holds a private key too, which belongs to its client alone: take it out, and make a new pair",)


def terms_in(data: bytes) -> tuple[Terms, tuple[str, ...]]:
    """Return what a ``NAME.toml`` says."""
    return read_terms(data), ()
