"""From a clean client to its first authenticated answer: by mtlsd, and by openssl, copies and a reload of nginx.

.venv/bin/python benchmarks/enrol.py [--rounds 5]

Both ends are on this machine, and both servers run already.  Each command is a process of its own, as a person gives it; what
is timed is how long they take, one after the other (the median of the rounds).  A file that is carried is one that somebody has
to bring to the other machine; here that is a copy, and takes no time to speak of.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from scale import BIN, Server

NGINX = """daemon off; master_process on; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {server}/serverCrt.pem;
        ssl_certificate_key {server}/serverKey.pem;
        ssl_client_certificate {folder}/clients.pem;
        ssl_verify_client on;
        location /hello {{ return 200 "Hello: $ssl_client_s_dn\\n"; }}
    }}
}}
"""


@dataclass
class Way:
    """What a person does, and what it takes."""

    name: str
    commands: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    restarts: int = 0
    seconds: float = 0.0

    def run(self, where: str, line: str, cwd: Path) -> str:
        """Give a command, in a shell, on the *where* side."""
        began = time.perf_counter()
        done = subprocess.run(
            line, shell=True, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=60, check=False
        )
        self.seconds += time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{line}: {done.stderr}")
        self.commands.append(f"{where}$ {line}")
        return done.stdout

    def carry(self, source: Path, target: Path) -> None:
        """Bring a file to the other side."""
        shutil.copy(source, target)
        self.carried.append(source.name)


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": os.pathsep.join([str(BIN), os.environ["PATH"], "/usr/sbin"])}


def by_mtlsd(server: Server, folder: Path, nth: int) -> Way:
    way, client = Way("mtlsd"), folder / f"client{nth}"
    client.mkdir()
    line = way.run("server", f"mtlsd invite bob{nth} --at localhost:{server.port} --certs {folder / 'certs'}", folder)
    way.run("client", f"{line.strip()} --dir .mtlsd", client)
    said = way.run("client", f"curl -sS --config .mtlsd/curl https://localhost:{server.port}/hello", client)
    assert said == f"Hello: bob{nth}\n", said
    return way


def by_nginx(port: int, folder: Path, nginx: Path, nth: int) -> Way:
    way, client = Way("openssl, copies, nginx"), folder / f"other{nth}"
    client.mkdir()
    name = f"bob{nth}"
    make = "openssl req -nodes -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 365"
    way.run("client", f"{make} -keyout clientKey.pem -out clientCrt.pem -subj /CN={name}", client)
    way.carry(client / "clientCrt.pem", nginx / "clientCrt.pem")
    way.run("server", "cat clientCrt.pem >> clients.pem", nginx)
    way.run("server", f"nginx -c {nginx}/nginx.conf -s reload", nginx)
    way.restarts += 1
    way.carry(folder / "certs" / "serverCrt.pem", client / "serverCrt.pem")
    began = time.perf_counter()
    # A reload is not done when the command is: a person would try again too.
    while time.perf_counter() - began < 30:
        line = f"curl -sS --cacert serverCrt.pem --cert clientCrt.pem --key clientKey.pem https://localhost:{port}/hello"
        done = subprocess.run(line, shell=True, cwd=client, capture_output=True, text=True, timeout=60, check=False)
        if done.stdout.startswith("Hello: "):
            way.seconds += time.perf_counter() - began
            way.commands.append(f"client$ {line}")
            return way
    raise SystemExit(f"nginx never let {name} in: {done.stdout}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    folder = Path(tempfile.mkdtemp(prefix="mtlsd-enrol-"))
    subprocess.run([BIN / "mtlsd", "init", "--certs", folder / "certs"], check=True, stdout=subprocess.DEVNULL)
    server = Server(folder / "certs", "--enrol", "on")
    stops: list[Callable[[], object]] = [server.stop]
    ways: list[list[Way]] = []
    try:
        ways.append([by_mtlsd(server, folder, nth) for nth in range(rounds)])
        if shutil.which("nginx", path=environment()["PATH"]) is None:
            print("nginx is not there (apt-get install nginx-light), and is left out")
        else:
            nginx, port = folder / "nginx", server.port + 1
            nginx.mkdir(mode=0o755)
            folder.chmod(0o755)
            shutil.copy(folder / "certs" / "serverCrt.pem", nginx / "clients.pem")
            (nginx / "nginx.conf").write_text(NGINX.format(folder=nginx, port=port, server=folder / "certs"))
            process = subprocess.Popen(["nginx", "-c", nginx / "nginx.conf"], env=environment(), stderr=subprocess.DEVNULL)
            stops += [process.terminate, process.wait]
            while not (nginx / "nginx.pid").exists() and process.poll() is None:
                time.sleep(0.05)
            ways.append([by_nginx(port, folder, nginx, nth) for nth in range(rounds)])
    finally:
        for stop in stops:
            stop()
        shutil.rmtree(folder)
    print(f"{'':24}{'commands':>10}{'files carried':>15}{'reloads':>9}{'machine time':>14}")
    for runs in ways:
        way, seconds = runs[0], statistics.median(run.seconds for run in runs)
        print(f"{way.name:24}{len(way.commands):>10}{len(way.carried):>15}{way.restarts:>9}{seconds:>12.2f} s")
    for runs in ways:
        print(f"\n{runs[0].name}:")
        for command in runs[0].commands:
            # The line's code is a secret, if one that was used up.
            print(f"    {re.sub('/[a-z2-7]{80}', '/…', command.replace(str(folder), '…'))}")
        for name in runs[0].carried:
            print(f"    carried: {name}")
    if statistics.median(run.seconds for run in ways[0]) > 2:
        sys.exit("mtlsd took more than 2 s")


if __name__ == "__main__":
    main()
