"""The site: what an accepted client is served.

Every resource learns its peer from :func:`identity`; nothing here knows of TLS.
"""

from mtlsd.web.request import identity

__all__ = ["identity"]
