"""What an attacker who has a certificate sends: each request as bytes, what the door says, and what a backend may see of it.

``@@`` is where the route begins.  ``bob`` sends these; he may not ask for ``/smuggled``, nor for anything below ``@@/admin``, so
whatever reaches a backend with that path has gone past the door.
"""

from __future__ import annotations

from dataclasses import dataclass

#: A request that only a smuggler brings to a backend.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"


@dataclass(frozen=True)
class Case:
    """*statuses*: of the answers, in order.  *passed*: the first lines that reach the backend.  *ends*: no further request."""

    name: str
    data: bytes
    statuses: tuple[int, ...] = (400,)
    passed: tuple[str, ...] = ()
    ends: bool = True


def _post(name: str, headers: bytes, body: bytes, *, passes: bool = False) -> Case:
    """Return a POST with its own *headers* of framing.  *passes*: it is one request for every reader."""
    data = b"POST @@/ok HTTP/1.1\r\nHost: h\r\n" + headers + b"\r\n\r\n" + body
    return Case(name, data, (200,), ("POST @@/ok HTTP/1.1",), ends=False) if passes else Case(name, data)


def _get(name: str, headers: bytes, *, passes: bool = False, behind: bytes = b"") -> Case:
    data = b"GET @@/ok HTTP/1.1\r\nHost: h\r\n" + headers + b"\r\n\r\n" + behind
    return Case(name, data, (200,), ("GET @@/ok HTTP/1.1",), ends=False) if passes else Case(name, data)


_CHUNKED = b"Transfer-Encoding: chunked"
_END = b"0\r\n\r\n"
_SIZE = b"%x\r\n" % len(SMUGGLED)

TWO_LENGTHS = (
    _post("CL.TE", b"Content-Length: 5\r\n" + _CHUNKED, _END + SMUGGLED),
    _post("TE.CL", _CHUNKED + b"\r\nContent-Length: 4", _SIZE + SMUGGLED + b"\r\n" + _END),
    _post("CL.0", b"Content-Length: 0\r\n" + _CHUNKED, _END + SMUGGLED),
    _post("CL.CL", b"Content-Length: 0\r\nContent-Length: %d" % len(SMUGGLED), SMUGGLED),
    _post("CL twice, the same", b"Content-Length: 3\r\nContent-Length: 3", b"abc"),
    _post("CL twice, in two spellings", b"Content-Length: 0\r\ncontent-length: 3", b"abc"),
    *(
        _post(f"TE.TE {value!r}", b"Transfer-Encoding:" + value, _END + SMUGGLED)
        for value in (
            *(b" xchunked", b" chunkedx", b" chunked,", b" ,chunked", b" chunked, chunked", b" chunked, identity", b" identity"),
            *(
                b" identity, chunked",
                b" gzip, chunked",
                b" gzip",
                b" chunked;q=1",
                b' "chunked"',
                b" \x0bchunked",
                b" \x0cchunked",
            ),
            *(b" chunked\x00", b" chunked\x0b", b"", b" chunked\r\nTransfer-Encoding: x", b" x\r\nTransfer-Encoding: chunked"),
            *(b" chunked\r\n\tx", b"\r\n chunked", b" chun\r\n ked", b" chunked\r\nTransfer-Encoding: chunked", b" \xe7hunked"),
            *(b" chunked\rX: y", b" chunked\nX: y"),
        )
    ),
    *(
        _post(f"TE name {name!r}", name + b" chunked", _END + SMUGGLED)
        for name in (
            *(
                b"Transfer-Encoding :",
                b"Transfer-Encoding\t:",
                b" Transfer-Encoding:",
                b"\tTransfer-Encoding:",
                b"\x00Transfer-Encoding:",
            ),
            *(b"Transfer-Encoding\x00:", b"X: y\rTransfer-Encoding:", b"X: y\nTransfer-Encoding:", b"Transfer-Encoding\r\n:"),
            *(b"Transfer Encoding:", b"Transfer-Enc\xf6ding:", b":\r\nTransfer-Encoding:", b"Foo\r\nTransfer-Encoding:"),
        )
    ),
    *(
        _post(f"CL {value!r}", b"Content-Length:" + value, SMUGGLED)
        for value in (
            *(
                b" +3",
                b" -3",
                b" -0",
                b" 0x3",
                b" 3 3",
                b" 3, 3",
                b" 3,",
                b" 3;",
                b" 1e1",
                b" 3.0",
                b" 3_0",
                b"",
                b" three",
                b" \xef\xbc\x93",
            ),
            *(
                b" 18446744073709551619",
                b" 99999999999999999999",
                b" " + b"9" * 5000,
                b" 3\x00",
                b" \x0b3",
                b"\r\n 3",
                b" 3\r\n 0",
            ),
            *(b" 3\rX: y", b" 3\nX: y"),
        )
    ),
    *(
        _post(f"CL name {name!r}", name + b" 3", SMUGGLED)
        for name in (
            b"Content-Length :",
            b"Content-Length\t:",
            b" Content-Length:",
            b"Content-Length\x00:",
            b"X: y\nContent-Length:",
        )
    ),
    # One meaning, however odd it looks.
    _post("TE in capitals, behind a tab", b"Transfer-Encoding:\tCHUNKED ", _END, passes=True),
    _post("CL with zeros", b"Content-Length: 0000003", b"abc", passes=True),
    _post("CL between blanks", b"Content-Length: \t3 \t", b"abc", passes=True),
    _post("CL in another spelling", b"Content_Length: 100\r\nContent-Length: 3", b"abc", passes=True),
    _post("TE in another spelling", b"Transfer_Encoding: chunked\r\nContent-Length: 3", b"0\r\n", passes=True),
    _post("a request as a body", b"Content-Length: %d" % len(SMUGGLED), SMUGGLED, passes=True),
    _post("a request as a chunk", _CHUNKED, _SIZE + SMUGGLED + b"\r\n" + _END, passes=True),
    _get("a request as the body of a GET", b"Content-Length: %d" % len(SMUGGLED), behind=SMUGGLED, passes=True),
    _get("a request as a chunk of a GET", _CHUNKED, behind=_SIZE + SMUGGLED + b"\r\n" + _END, passes=True),
    Case("chunked on HTTP/1.0", b"POST @@/ok HTTP/1.0\r\nHost: h\r\n" + _CHUNKED + b"\r\n\r\n" + _END),
    Case(
        "a request behind the last one",
        b"GET @@/ok HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + SMUGGLED,
        (200,),
        ("GET @@/ok HTTP/1.1",),
    ),
)

CHUNKS = (
    *(
        _post(f"chunks {data[:20]!r}", _CHUNKED, data + SMUGGLED)
        for data in (
            *(
                b"-1\r\n",
                b"+3\r\nabc\r\n0\r\n\r\n",
                b"0x3\r\nabc\r\n0\r\n\r\n",
                b" 3\r\nabc\r\n0\r\n\r\n",
                b"\r\n",
                b"g\r\n",
                b";a\r\n",
                b"3 ;a\r\nabc",
            ),
            *(
                b"10000000000000003\r\nabc\r\n0\r\n\r\n",
                b"fffffffffffffffff\r\n",
                b"3\nabc\n0\n\n",
                b"3\nabc\r\n0\r\n\r\n",
                b"3\r\nabc\n0\r\n\r\n",
            ),
            *(
                b"3\r\nabcd\r\n0\r\n\r\n",
                b"3\r\nabc0\r\n\r\n",
                b"3\r\nabc\r0\r\n\r\n",
                b"3\rabc\r\n0\r\n\r\n",
                b"3;a\nabc\r\n0\r\n\r\n",
                b"3;a\rb\r\nabc",
            ),
            *(
                b"3;\x00\r\nabc\r\n0\r\n\r\n",
                b"3\x00\r\nabc",
                b"0\r\n\n",
                b"0\r\nX: y\n\r\n",
                b"0\n\r\n",
                b"0\r\n X: y\r\n\r\n",
                b"0\r\nX : y\r\n\r\n",
            ),
            *(b"0\r\nX\r\n\r\n", b"0\r\nX: \x00\r\n\r\n"),
        )
    ),
    _post("extensions", _CHUNKED, b'3;a=b;c="d"\r\nabc\r\n0;e\r\n\r\n', passes=True),
    _post("sizes with zeros", _CHUNKED, b"0003\r\nabc\r\n000\r\n\r\n", passes=True),
)


def _trailed(name: str, trailers: bytes, announced: bytes = b"", *, passes: bool = False) -> Case:
    """Return a POST with *trailers*; default: each of them is announced."""
    named = announced or b", ".join(line.partition(b":")[0].strip() for line in trailers.split(b"\r\n") if line)
    headers = _CHUNKED + b"\r\nTrailer: " + named
    return _post(f"trailers: {name}", headers, b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n\r\n", passes=passes)


TRAILERS = (
    _trailed("two", b"X-T: 1\r\nETag: x", passes=True),
    _trailed("not announced", b"X-T: 1", b"X-Other", passes=True),
    _trailed("whose they are", b"Host: x\r\nX-Client-Name: root\r\nX_Forwarded.For: ::1", passes=True),
    _trailed("lengths of another spelling", b"Content_Length: 9\r\nTransfer.Encoding: chunked", passes=True),
    _trailed("one per announced name, and one more", b"X-T: 1\r\nX-T: 2\r\nX-U: 3", b"X-T", passes=True),
    # To a server that leaves them unread, or a part of them, the first line of a request.
    _trailed("a request", b"X: GET @@/admin/smuggled HTTP/1.1\r\nY: z", passes=True),
    _trailed("a request, in the name too", b"GET: @@/admin/smuggled HTTP/1.1\r\nY: z", passes=True),
    _trailed("a request behind one", b"X: y\r\nGET: @@/admin/smuggled HTTP/1.1\r\nHost_: h", passes=True),
    # Where another reader believes in them, the next request is none, or one more.
    *(
        _trailed(f"{line!r}", line)
        for line in (
            *(
                b"Connection: close",
                b"connection: x",
                b"Proxy-Connection: close",
                b"Upgrade: h2c",
                b"Content-Length: 9",
                b"content-length: 0",
            ),
            *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"X: y\r\nContent-Length: %d" % len(SMUGGLED)),
            *(
                b" X: y",
                b"X : y",
                b"X\t: y",
                b"X",
                b": y",
                b"X: y\r\n z",
                b"X: y\nZ: z",
                b"X: y\rZ: z",
                b"X: \x00",
                b"X\x00: y",
                b"X: \x01",
            ),
            *(b"X(: y", b"X\xe9: y", b"GET @@/admin/smuggled HTTP/1.1", b"GET @@/admin/smuggled HTTP/1.1\r\nHost: h", b"X: y\n"),
        )
    ),
    Case(
        "trailers: many",
        b"POST @@/ok HTTP/1.1\r\nHost: h\r\n"
        + _CHUNKED
        + b"\r\nTrailer: A\r\n\r\n0\r\n"
        + b"A: b\r\n" * 501
        + b"\r\n"
        + SMUGGLED,
        (431,),
    ),
)

#: Refused when their head, which is in order, may be on its way: the server behind the door gets no more than a part of them.
HALVES = tuple(
    Case(
        f"trailers: {name}",
        b"POST @@/ok HTTP/1.1\r\nHost: h\r\n" + _CHUNKED + b"\r\nTrailer: A\r\n\r\n0\r\n" + trailers + SMUGGLED,
        (431,),
    )
    for name, trailers in (
        ("one without an end", b"A: " + b"b" * 100_000 + b"\r\n\r\n"),
        ("many without an end", (b"A: " + b"b" * 100 + b"\r\n") * 1000 + b"\r\n"),
        ("a little too many", (b"A: " + b"b" * 100 + b"\r\n") * 320 + b"\r\n"),
    )
)

LINES = (
    *(
        _get(f"header {line!r}", line, behind=SMUGGLED)
        for line in (
            *(
                b"X: y\r\n z",
                b"X: y\r\n\tz",
                b" X: y",
                b"X : y",
                b"X\t: y",
                b"X",
                b": y",
                b"X: \x00",
                b"X\x00: y",
                b"X: \x01",
                b"X: \x7f",
            ),
            *(b"X: y\rZ: z", b"X: y\r", b"X: y\nZ: z", b"X(: y", b"X\xe9: y", b"X y: z", b'"X": y', b"{X}: y"),
        )
    ),
    *(
        Case(f"first line {line!r}", line + b"\r\nHost: h\r\n\r\n" + SMUGGLED)
        for line in (
            *(
                b"GET @@/ok",
                b"GET @@/ok HTTP/0.9",
                b"GET @@/ok HTTP/1.2",
                b"GET @@/ok HTTP/2.0",
                b"GET @@/ok HTTP/1.10",
                b"GET @@/ok HTTP/01.1",
            ),
            *(
                b"GET @@/ok HTTP/1.1 ",
                b"GET @@/ok HTTP/ 1.1",
                b"GET @@/ok http/1.1",
                b"GET @@/ok HTTPS/1.1",
                b"GET @@/ok X/1.1",
                b"GET @@/ok 1.1",
            ),
            *(
                b"GET\t@@/ok HTTP/1.1",
                b"GET @@/ok\tHTTP/1.1",
                b"GET @@/ok /x HTTP/1.1",
                b"GET @@/ok\x00 HTTP/1.1",
                b"GET @@/ok\x0b HTTP/1.1",
            ),
            *(b"GET @@/ok\rHTTP/1.1", b"GET HTTP/1.1", b"GET  HTTP/1.1", b" GET @@/ok HTTP/1.1", b"GET@@/ok HTTP/1.1"),
        )
    ),
    *(
        Case(f"method {m!r}", m + b" @@/ok HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED, (501,))
        for m in (b"get", b"GETS", b"X-Y", b"G!T")
    ),
    *(Case(f"method {m!r}", m + b" @@/ok HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED) for m in (b"G\x00T", b"G:T", b"\xc7ET", b"")),
    Case("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    Case("another TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 80),
    Case("too many headers", b"GET @@/ok HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 501 + b"\r\n", (431,)),
    Case("a long header", b"GET @@/ok HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 40_000 + b"\r\n\r\n", (431,)),
    Case("a long path", b"GET @@/" + b"b" * 40_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", (431,)),
    Case("blanks in its first line", b"GET  @@/ok  HTTP/1.1\r\nHost: h\r\n\r\n", (200,), ("GET @@/ok HTTP/1.1",), ends=False),
    Case("empty lines before it", b"\r\n\r\nGET @@/ok HTTP/1.1\r\nHost: h\r\n\r\n", (200,), ("GET @@/ok HTTP/1.1",), ends=False),
    Case("two at once", b"GET @@/ok HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED, (200, 403), ("GET @@/ok HTTP/1.1",), ends=False),
    Case("on HTTP/1.0", b"GET @@/ok HTTP/1.0\r\n\r\n" + SMUGGLED, (200,), ("GET @@/ok HTTP/1.1",)),
)

HOSTS = (
    *(
        Case(f"hosts {hosts!r}", b"GET @@/ok HTTP/1.1\r\n" + hosts + b"\r\n" + SMUGGLED)
        for hosts in (
            *(
                b"",
                b"Host: h\r\nHost: h\r\n",
                b"Host: h\r\nhost: x\r\n",
                b"Host: u@h\r\n",
                b"Host: u:p@h\r\n",
                b"Host: h/x\r\n",
                b"Host: h?x\r\n",
            ),
            *(
                b"Host: h#x\r\n",
                b"Host: h h\r\n",
                b"Host: h\\x\r\n",
                b"Host: h:x\r\n",
                b"Host: h:1:2\r\n",
                b"Host: http://h\r\n",
                b"Host: [::1\r\n",
            ),
            *(
                b"Host: h\x00\r\n",
                b"Host: h\xe9\r\n",
                b"Host: h:999999\r\n",
                b"Host: <h>\r\n",
                b"Host : h\r\n",
                b"Host: h\r\n x\r\n",
            ),
        )
    ),
    *(
        Case(f"target {target!r}", b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED)
        for target in (
            *(b"http://u@h@@/ok", b"http://u:p@h@@/ok", b"http://@@/ok", b"http:///ok", b"http:@@/ok", b"ftp://h@@/ok", b"h:1"),
            *(
                b"http://h\\@@/ok",
                b"http://h#@@/ok",
                b"javascript:alert(1)",
                b"http://h h@@/ok",
                b"http://[::1@@/ok",
                b"http://h:x@@/ok",
            ),
        )
    ),
    Case("absolute, another host", b"GET http://x@@/ok HTTP/1.1\r\nHost: h\r\n\r\n", (200,), ("GET @@/ok HTTP/1.1",), ends=False),
    Case("absolute, another path", b"GET http://h@@/admin/smuggled HTTP/1.1\r\nHost: h\r\n\r\n", (403,), ends=False),
    Case("authority form", b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n" + SMUGGLED, (405,)),
    Case("CONNECT to a path", b"CONNECT @@/admin/smuggled HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED, (403,)),
    Case("the server as a whole", b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", (200,), ends=False),
    Case("the server as a whole, by GET", b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", (405,), ends=False),
)

HOPS = (
    *(
        _get(f"hop by hop {line!r}", line, passes=True)
        for line in (
            *(b"Connection: X-Client-Name, X-Forwarded-For, Client-Cert", b"Connection: Host", b"Connection: Content-Length"),
            *(
                b"Connection: keep-alive, Transfer-Encoding",
                b"Connection: x\r\nConnection: host",
                b"Keep-Alive: 1",
                b"Proxy-Connection: keep-alive",
            ),
            *(
                b"TE: trailers, chunked",
                b"Trailer: X-Client-Name",
                b"Expect: 100-continue",
                b"Expect: x",
                b"Proxy-Authorization: x",
            ),
            *(b"Max-Forwards: 0", b"Connection: \t,, ,", b'Connection: "close"'),
        )
    ),
    Case(
        "Proxy-Connection, which some take for Connection",
        b"GET @@/ok HTTP/1.1\r\nHost: h\r\nProxy-Connection: close\r\n\r\n" + SMUGGLED,
        (200,),
        ("GET @@/ok HTTP/1.1",),
    ),
    _post(
        "Connection names the length", b"Connection: Content-Length\r\nContent-Length: %d" % len(SMUGGLED), SMUGGLED, passes=True
    ),
    _post("Connection names the coding", b"Connection: Transfer-Encoding\r\n" + _CHUNKED, b"3\r\nabc\r\n" + _END, passes=True),
    _post("Expect, nothing to come", b"Expect: 100-continue\r\nContent-Length: 0", b"", passes=True),
    _post("Expect, and not waited", b"Expect: 100-continue\r\nContent-Length: 3", b"abc", passes=True),
    _post("Expect twice, and not waited", b"Expect: 100-continue\r\nExpect: x\r\nContent-Length: 3", b"abc", passes=True),
    Case(
        "Expect on HTTP/1.0",
        b"POST @@/ok HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc" + SMUGGLED,
        (200,),
        ("POST @@/ok HTTP/1.1",),
    ),
    _post("Upgrade with a body", b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: %d" % len(SMUGGLED), SMUGGLED),
    _post("Upgrade with chunks", b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + _CHUNKED, _END + SMUGGLED),
    *(
        Case(
            f"Upgrade, and more {protocol!r}",
            b"GET @@/ok HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: "
            + protocol
            + b"\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n\r\n"
            + more,
            (200,),
            ("GET @@/ok HTTP/1.1",),
        )
        for protocol, more in (
            (b"h2c", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED),
            (b"websocket", SMUGGLED),
            (b"TLS/1.0", SMUGGLED),
        )
    ),
)

#: Paths below ``@@`` that a backend gets as they are, what it gets of others, and what it never gets: refused with 400, or with 403.
PATHS_KEPT = r"""
/ /a /a/ /a.b /... /..a /a%20b /%C3%A9 /a%25b /:@!$&'()*+,= /%252e%252e/admin /%252F /a?/../admin /a?//%2F%00; /a?? /adminx
/Admin /admin%20 /a%3Fadmin /a%3Badmin /a%23admin /a%3A /%E2%80%A5/admin /%EF%BC%8Fadmin /%C0%AE%C0%AE/admin /a%22%3Cb%3E
"""
PATHS_RESPELLED = "/%61 /a /a%2Db%5f%7E /a-b_~ /%c3%a9 /%C3%A9 /%2e%2e%2ea /...a /a%2ehtml?%61 /a.html?%61"
PATHS_AMBIGUOUS = r"""
// //admin /a//b /a// /./a /a/. /a/./b /../admin /a/.. /a/../admin /.. /. /%2e/a /%2E%2e/admin /a/.%2e /a/%2e. /%2e%2e%2fadmin /a%2fb
/a%2Fb /a%5cb /a%5Cadmin /%00 /a%00.html /a%0d%0aX:%20y /a%0a /a%7f /a%1f /a;b /admin;/x /a;/../admin /..;/admin /a% /a%4 /a%zz /a%u0041
"""
PATHS_REFUSED = "/admin /admin/ /%61dmin /%61%64%6D%69%6E/x /admin?x /admin/..x /admin/%2561"
#: Not even targets (RFC 9112 3.2), so that the connection ends.
PATHS_NONE = ("/\xe9", "/\xc3\xa9", "/a#b", "/a?b#c", "/a?\xe9", "/a\x7f", "/a\\admin", "/a?b\\c", "/a\x00", "/" + "x" * 40_000)
