"""What counts as one address, and who are its neighbours, where something is shared out by address.  Pure."""

from __future__ import annotations

import ipaddress


def address_group(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 of an IPv6 one (a /64 is one subscriber)."""
    return _network(address, None, 64)


def neighbourhood(address: str) -> str:
    """Return the network that often has one owner: the /24 of an IPv4 address, the /48 of an IPv6 one."""
    return _network(address, 24, 48)


def _network(address: str, ipv4: int | None, ipv6: int) -> str:
    try:
        if ":" in address:
            return str(ipaddress.IPv6Network((address.split("%", 1)[0], ipv6), strict=False))
        return address if ipv4 is None else str(ipaddress.IPv4Network((address, ipv4), strict=False))
    except ValueError:
        return address
