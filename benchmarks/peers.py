"""The servers that are compared: how each is set up and started, and of which version it is.

Each wants a certificate of the client and verifies it, serves ``/hello`` and the files under ``/files``, speaks TLS 1.3 and
HTTP/1.1, and has one worker.  Otherwise it is as it comes.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.backends.openssl import backend
from measure import Failed, Pair

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
APPS = HERE / "apps"
BIN = Path(sys.executable).parent

KEYS = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["rsa:4096"]}
#: What `openssl req -x509` makes by itself says CA:TRUE, which granian refuses of a client.
_CERTIFICATE = """
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = {name}
[extensions]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost
"""
FILES = {"1m": 1 << 20, "100m": 100 << 20}


@dataclass(frozen=True)
class Place:
    """What a server is started with: a folder and a port of its own, and what all share."""

    folder: Path
    port: int
    server: Pair
    client: Pair
    files: Path
    access_log: Path | None
    tools: Tools
    #: The port of a plain HTTP server to pass requests on to; ``None``: the server answers them itself.
    backend: int | None = None


@dataclass(frozen=True)
class Start:
    """A command line, and what is added to the environment."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tools:
    """What is installed, and where what is built goes."""

    peers: Path
    built: Path

    def python(self) -> str:
        """Return the interpreter of the peers' environment."""
        return str(self.peers / "bin" / "python")

    def version(self, package: str) -> str | None:
        """Return the version of a package in the peers' environment."""
        try:
            return _said([self.python(), "-c", f"import importlib.metadata as m; print(m.version({package!r}))"])
        except Failed:
            return None

    def find(self, program: str) -> str | None:
        return (
            shutil.which(program, path=f"{self.peers / 'bin'}") or shutil.which(program) or shutil.which(f"/usr/sbin/{program}")
        )


@dataclass(frozen=True)
class Peer:
    """A server: its version here (None: it is absent), and how it is started at a place."""

    name: str
    version: Callable[[Tools], str | None]
    start: Callable[[Place], Start]


def _said(command: list[str], timeout: float = 20) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Failed(str(error)) from None
    return (done.stdout + done.stderr).strip()


# --- what all of them get ---


def make_pairs(folder: Path) -> dict[tuple[str, str], Pair]:
    """Make a pair for each kind of key (ec, rsa) and each side (server, client)."""
    pairs = {}
    for kind, key in KEYS.items():
        for side in ("server", "client"):
            settings = folder / f"{kind}-{side}.cnf"
            settings.write_text(_CERTIFICATE.format(name=side))
            pair = Pair(folder / f"{kind}-{side}.pem", folder / f"{kind}-{side}.key")
            made = ["-newkey", *key, "-keyout", str(pair.key), "-out", str(pair.cert), "-days", "30", "-config", str(settings)]
            _said(["openssl", "req", "-x509", "-nodes", *made], 120)
            pair.key.chmod(0o600)
            pairs[kind, side] = pair
    return pairs


def make_files(folder: Path) -> Path:
    folder.mkdir()
    for name, size in FILES.items():
        with (folder / name).open("wb") as file:
            file.write(bytes(range(256)) * (size // 256))
    return folder


# --- mtlsd, and Twisted as it comes ---


def _mtlsd(place: Place) -> Start:
    folder = place.folder / "certs"
    (folder / "authorized").mkdir(parents=True, mode=0o755)
    shutil.copy(place.server.cert, folder / "serverCrt.pem")
    shutil.copy(place.server.key, folder / "serverKey.pem")
    shutil.copy(place.client.cert, folder / "authorized" / "client.pem")
    options = ["--interface", "127.0.0.1", "--port", str(place.port), "--certs", str(folder)]
    options += ["--audit-log", str(place.folder / "audit.jsonl")]
    if place.access_log:
        options += ["--access-log", str(place.access_log)]
    if place.backend:
        config = place.folder / "mtlsd.toml"
        config.write_text(f'[[route]]\npath = "/"\nallow = ["*"]\nupstream = "http://127.0.0.1:{place.backend}"\n')
        options += ["--config", str(config)]
    more = {"BENCH_OPTIONS": json.dumps(options), "BENCH_FILES": str(place.files), "PYTHONPATH": str(ROOT)}
    return Start(_twistd(APPS / "door.py"), more)


def _twistd(application: Path) -> list[str]:
    return [str(BIN / "twistd"), "-n", "--pidfile=", "--no_save", "-y", str(application)]


def _commit(_: Tools) -> str:
    try:
        commit = _said(["git", "-C", str(ROOT), "describe", "--always", "--dirty"])
    except Failed:
        commit = "no checkout"
    return f"{importlib.metadata.version('mtlsd')} ({commit})"


def _stock(place: Place) -> Start:
    return Start(_twistd(APPS / "stock.py"), {"BENCH_STOCK": _as_json(place)})


def _as_json(place: Place) -> str:
    return json.dumps(
        {
            "port": place.port,
            "cert": str(place.server.cert),
            "key": str(place.server.key),
            "client": str(place.client.cert),
            "files": str(place.files),
            "access_log": str(place.access_log) if place.access_log else None,
        }
    )


# --- nginx ---

_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections 16384; }}
http {{
  default_type text/plain;
  access_log {access};
  server_tokens off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  map $ssl_client_s_dn $client {{ "~CN=(?<name>[^,]*)" $name; }}
  server {{
    listen 127.0.0.1:{port} ssl backlog=1024;
    ssl_certificate {server.cert};
    ssl_certificate_key {server.key};
    ssl_client_certificate {client.cert};
    ssl_verify_client on;
    ssl_protocols TLSv1.3;
    {locations}
  }}
  {more}
}}
"""
_ANSWERS = 'location = /hello {{ return 200 "Hello: $client\\n"; }} location /files/ {{ alias {files}/; }}'
# With what mtlsd tells a backend too.
_PASSES_ON = """location / {
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header Client-Cert $ssl_client_escaped_cert;
      proxy_set_header X-Client-Name $client;
      proxy_set_header X-Client-Fingerprint $ssl_client_fingerprint;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto https;
      proxy_set_header X-Forwarded-Host $http_host;
    }"""
_BACKEND = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections 16384; }}
http {{
  default_type text/plain;
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location = /hello {{ return 200 "Hello: backend\\n"; }}
    location /files/ {{ alias {files}/; }}
  }}
}}
"""


def _nginx(place: Place) -> Start:
    settings = place.folder / "nginx.conf"
    access = f"{place.access_log} combined" if place.access_log else "off"
    settings.write_text(
        _NGINX.format(
            folder=place.folder,
            port=place.port,
            server=place.server,
            client=place.client,
            access=access,
            locations=_PASSES_ON if place.backend else _ANSWERS.format(files=place.files),
            more=f"upstream backend {{ server 127.0.0.1:{place.backend}; keepalive 64; }}" if place.backend else "",
        )
    )
    return _run_nginx(place.tools, place.folder, settings)


def plain_backend(tools: Tools, folder: Path, port: int, files: Path) -> Start:
    """Return how a plain HTTP server is started, for others to pass requests on to."""
    settings = folder / "nginx.conf"
    settings.write_text(_BACKEND.format(folder=folder, port=port, files=files))
    return _run_nginx(tools, folder, settings)


def _run_nginx(tools: Tools, folder: Path, settings: Path) -> Start:
    nginx = tools.find("nginx")
    assert nginx
    return Start([nginx, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(settings)])


def _nginx_version(tools: Tools) -> str | None:
    nginx = tools.find("nginx")
    if nginx is None:
        return None
    found = re.search(r"nginx/(\S+)[\s\S]*(OpenSSL \S+)", _said([nginx, "-V"]))
    return f"{found[1]} ({found[2]})" if found else "unknown"


# --- Go ---


def _go_version(tools: Tools) -> str | None:
    go = tools.find("go")
    if go is None:
        return None
    if not (tools.built / "hello").exists():
        cache = {"GOCACHE": str(tools.built / "go-cache"), "GOPATH": str(tools.built / "go"), "GO111MODULE": "off"}
        build = ["env", *(f"{name}={value}" for name, value in cache.items()), go, "build"]
        _said([*build, "-o", str(tools.built / "hello"), str(APPS / "hello.go")], 180)
    found = re.search(r"go([0-9.]+)", _said([go, "version"]))
    return found[1] if found else "unknown"


def _go(place: Place) -> Start:
    command = [str(place.tools.built / "hello"), "-port", str(place.port), "-files", str(place.files)]
    command += ["-cert", str(place.server.cert), "-key", str(place.server.key), "-client", str(place.client.cert)]
    if place.access_log:
        command += ["-access-log", str(place.access_log)]
    return Start(command, {"GOMAXPROCS": "1"})


# --- the other Python servers ---


def _uvicorn(place: Place) -> Start:
    # Its access log goes to standard output, which is a file.
    log = "--access-log" if place.access_log else "--no-access-log"
    return Start(
        [
            *(place.tools.python(), "-m", "uvicorn", "--app-dir", str(APPS), "frameworks:app"),
            *("--host", "127.0.0.1", "--port", str(place.port), "--loop", "uvloop", "--http", "httptools", log),
            *("--ssl-certfile", str(place.server.cert), "--ssl-keyfile", str(place.server.key)),
            *(
                "--ssl-ca-certs",
                str(place.client.cert),
                "--ssl-cert-reqs",
                "2",
                "--backlog",
                "1024",
                "--timeout-keep-alive",
                "75",
            ),
        ],
        {"BENCH_FILES": str(place.files)},
    )


def _granian(place: Place) -> Start:
    log = "--access-log" if place.access_log else "--no-access-log"
    return Start(
        [
            *(
                str(place.tools.peers / "bin" / "granian"),
                "--interface",
                "rsgi",
                "--host",
                "127.0.0.1",
                "--port",
                str(place.port),
            ),
            *("--workers", "1", "--runtime-threads", "1", "--http", "1", "--loop", "uvloop", "--no-ws", "--backlog", "1024", log),
            # As many connections as the others take; else it takes no more than its backlog is long.
            *("--backpressure", "16384"),
            *("--ssl-certificate", str(place.server.cert), "--ssl-keyfile", str(place.server.key)),
            *("--ssl-ca", str(place.client.cert), "--ssl-client-verify", "frameworks:rsgi"),
        ],
        {"BENCH_FILES": str(place.files), "PYTHONPATH": str(APPS)},
    )


def _aiohttp(place: Place) -> Start:
    return Start([place.tools.python(), str(APPS / "frameworks.py"), _as_json(place)], {"BENCH_FILES": str(place.files)})


PEERS = {
    peer.name: peer
    for peer in (
        Peer("mtlsd", _commit, _mtlsd),
        Peer("nginx", _nginx_version, _nginx),
        Peer("go", _go_version, _go),
        Peer("uvicorn", lambda tools: tools.version("uvicorn"), _uvicorn),
        Peer("granian", lambda tools: tools.version("granian"), _granian),
        Peer("aiohttp", lambda tools: tools.version("aiohttp"), _aiohttp),
        Peer("twisted", lambda _: importlib.metadata.version("twisted"), _stock),
    )
}


def surroundings(tools: Tools) -> dict[str, str]:
    """Return the versions of what the servers stand on, and the machine."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    found = {
        "machine": f"{model[1] if model else platform.machine()}, {len(list(Path('/sys/devices/system/cpu').glob('cpu[0-9]*')))} cores",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "pyOpenSSL": importlib.metadata.version("pyopenssl"),
        "cryptography": f"{importlib.metadata.version('cryptography')} ({backend.openssl_version_text()})",
        "the system's OpenSSL (nginx, load client)": _said(["openssl", "version"]).split(" (")[0],
    }
    for package in ("uvloop", "httptools"):
        version = tools.version(package)
        if version:
            found[f"{package} (uvicorn, granian, aiohttp)" if package == "uvloop" else f"{package} (uvicorn)"] = version
    return found
