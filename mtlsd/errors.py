"""The kinds of things that go wrong.

The text of each error is one line for a person: what, which file, what to do.  It carries no text from a
certificate that has not gone through :func:`mtlsd.text.printable`.
"""


class MtlsdError(Exception):
    """Base of every error that mtlsd raises on purpose."""


class SettingsError(MtlsdError):
    """An option, or the configuration file, is wrong."""


class CertificateError(MtlsdError):
    """A certificate or a key cannot be read, or the two do not belong together."""


class FolderError(MtlsdError):
    """The folder of certificates, or a part of it, is missing, unreadable or not safe to use."""


class Refused(MtlsdError):
    """A change of the authorized clients was refused; nothing was changed."""


class NotFound(Refused):
    """What was asked for is not there."""
