"""A pair as one PKCS #12 file (RFC 7292), as browsers take it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12

from mtlsd.errors import CertificateError, FolderError
from mtlsd.text import printable


class Bundle:
    """Where the file goes, and its password."""

    def __init__(self, path: Path, password: bytes) -> None:
        self.path = path
        self._password = password

    def write(self, key_pem: bytes, certificate_pem: bytes, name: str) -> None:
        """Write the pair, mode 0600; *name* is what the browser shows.  Nothing is overwritten.

        Raises :exc:`~mtlsd.errors.MtlsdError`.
        """
        try:
            key = load_pem_private_key(key_pem, None)
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            # Not every kind of key has a place in such a file: then it raises.
            data = pkcs12.serialize_key_and_certificates(
                name.encode(), cast(Any, key), certificate, None, BestAvailableEncryption(self._password)
            )
        except (ValueError, TypeError) as error:
            raise CertificateError("the pair cannot be put into a PKCS #12 file") from error
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        except OSError as error:
            raise FolderError(printable(f"{self.path}: cannot be written: {error.strerror}")) from error
