"""Makes pairs of a private key and a self-signed certificate.  Pure cryptography: no file is touched.

ECDSA on P-256 with SHA-256, which every TLS client and browser of today speaks.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mtlsd.errors import CertificateError
from mtlsd.identity import is_client_name
from mtlsd.text import printable, shortened

#: A clock that runs a little behind ours is no reason to be refused.
BACKDATED = timedelta(minutes=5)
MOST_DAYS = 36_500

# RFC 5280 A.1, ub-common-name.
_LONGEST_COMMON_NAME = 64
_LONGEST_HOST = 253
# Underscores are no host names by RFC 952, but Docker Compose makes them, and clients match them.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")


@dataclass(frozen=True, slots=True)
class NewPair:
    """A private key (PEM, PKCS #8, not encrypted) and its certificate (PEM, and the same as DER)."""

    key_pem: bytes
    certificate_pem: bytes
    der: bytes


@dataclass(frozen=True, slots=True)
class Hosts:
    """What a server's certificate says it is: DNS names in lower case, and addresses in their shortest spelling.

    ``common_name`` is what a client falls back to where there are no subject alternative names, or ``None``.
    """

    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    common_name: str | None = None

    def covers(self, host: str) -> bool:
        """Tell whether the certificate is good for *host*, as :func:`read_host` gives it (RFC 6125 6.4.3)."""
        _, _, parent = host.partition(".")
        return host in self.names or host in self.addresses or (bool(parent) and f"*.{parent}" in self.names)

    def best(self) -> str:
        """Return the host to put into a URL: ``localhost`` where it is one, else the first that stands there."""
        plain = [name for name in self.names if not name.startswith("*")]
        if "localhost" in plain:
            return "localhost"
        if plain:
            return plain[0]
        if self.addresses:
            return f"[{self.addresses[0]}]" if ":" in self.addresses[0] else self.addresses[0]
        return self.common_name or "localhost"


def read_host(text: str) -> str:
    """Return a host as a certificate has it: a DNS name in lower case, or an IP address in its shortest spelling.

    Raises :exc:`ValueError`, with a cause for a person, for anything else.
    """
    host = text.strip().lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    else:
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            raise ValueError("an address with a zone means something on this machine only")
        return str(address)
    shown = shortened(printable(text), 80)
    if not host.isascii():
        raise ValueError(f"{shown} is not ASCII: give the name in its xn-- form")
    labels = host.removeprefix("*.").split(".")
    # A last label of digits is a mistyped address: no top-level domain is a number.
    if len(host) > _LONGEST_HOST or labels[-1].isdigit() or not all(_LABEL.match(label) for label in labels):
        raise ValueError(f"{shown!r} is neither a host name nor an IP address")
    return host


def read_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``, an IPv6 address in brackets.  Raises :exc:`ValueError` for anything else."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("HOST:PORT is wanted")
    if "*" in host or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise ValueError("one host is wanted, an IPv6 address in brackets")
    return read_host(host), int(port)


def new_client_pair(name: str, now: datetime, days: int) -> NewPair:
    """Make the pair of client *name*, good from *now* (aware) for *days* days.  Raises :exc:`ValueError` for a bad name."""
    if not is_client_name(name):
        raise ValueError("not the name of a client")
    return _new_pair(name, [], ExtendedKeyUsageOID.CLIENT_AUTH, now, days)


def new_server_pair(hosts: Sequence[str], now: datetime, days: int) -> NewPair:
    """Make the server's pair for *hosts* (as :func:`read_host` gives them; the first one is also the subject).

    Its certificate is CA:FALSE, so who trusts it trusts nothing but it.  No two have one subject: a client that trusts this one
    and the next finds them by it (OpenSSL takes the one that ends last, and then refuses the other).
    """
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    subject = next((host for host in hosts if len(host) <= _LONGEST_COMMON_NAME), "mtlsd")
    return _new_pair(subject, names, ExtendedKeyUsageOID.SERVER_AUTH, now, days, secrets.token_hex(8))


def hosts_in(der: bytes) -> Hosts:
    """Return what a server's certificate says it is.  Raises :exc:`~mtlsd.errors.CertificateError` if it is damaged."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        try:
            named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return Hosts(common_name=_host_or_none(str(common[0].value)) if common else None)
        names = [_host_or_none(name) for name in named.get_values_for_type(x509.DNSName)]
        addresses = [str(address) for address in named.get_values_for_type(x509.IPAddress)]
    except (ValueError, TypeError, x509.DuplicateExtension) as error:
        raise CertificateError("its subject alternative names cannot be read") from error
    return Hosts(tuple(name for name in names if name is not None), tuple(addresses))


def _host_or_none(text: str) -> str | None:
    # What a certificate says goes into a command that is pasted into a shell: only a host name may.
    try:
        return read_host(text)
    except ValueError:
        return None


def _new_pair(
    subject: str,
    names: list[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    now: datetime,
    days: int,
    number: str | None = None,
) -> NewPair:
    if not 1 <= days <= MOST_DAYS:
        raise ValueError(f"1 to {MOST_DAYS} days are wanted")
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, subject)]
    if number is not None:
        attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, number))
    who = x509.Name(attributes)
    at = now.replace(microsecond=0)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - BACKDATED)
        .not_valid_after(at + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_SIGNS_HANDSHAKES, critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(identifier, critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    return NewPair(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
        certificate.public_bytes(Encoding.DER),
    )


_SIGNS_HANDSHAKES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
