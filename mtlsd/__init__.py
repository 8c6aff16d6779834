"""mtlsd: authorized_keys for HTTPS.  Every client is let in by its own certificate, and nobody runs a CA.

The way through the house, data going one way::

    socket -> tls (handshake) -> identity -> policy -> resource
                     |                          |
                     +-------- verdict ---------+-----> audit sinks
    mtlsd (command) -> registry  <- asked by the server at every handshake and every request

`settings` is what the operator asked for, `tap` is the only place that wires the rest together, and `cli` is the
command for the person who looks after the clients.  The command and the server meet only in the `registry`.
`identity`, `policy`, `settings` and `audit.events` are pure: they import neither Twisted nor OpenSSL.
"""

__version__ = "0.1.0"
