"""A start that nobody has made: what would keep the server from it, by what a real one meets."""

from __future__ import annotations

import os

from mtlsd import settings
from mtlsd.config import Config
from mtlsd.errors import CertificateError
from mtlsd.tls.pair import load_pair


def unfit_pair(config: Config) -> list[str]:
    """Return why the server would not start with the pair that ``[server]`` names; what only it may read is let pass."""
    given = settings.load({}, config.server)
    if given.key is None and given.cert is None:
        # The folder's own: mtlsd init makes it.
        return []
    here = given.key_path, given.cert_path
    if not all(os.access(path, os.R_OK) for path in here):
        return []
    try:
        load_pair(*here)
    except CertificateError as error:
        return [f"server: {error}"]
    return []
