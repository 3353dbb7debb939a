"""Debian's registry, on loopback: with TLS or without, and asking for a password, for a token, or for nothing."""

from __future__ import annotations

import base64
import datetime
import json
import re
import shutil
import ssl
import subprocess
import threading
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx2 as httpx
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tests.fakes import images, ports
from tests.fakes.provisioner import eventually

PROGRAM: Final = "docker-registry"
USER: Final = "agent"
PASSWORD: Final = "open sesame"
_HTPASSWD: Final = f"{USER}:$2b$04$7rEM85cs/fHZjQRX2D9nyOllCvkPC7WoLoCuTElbs/sZAcktD7kiy\n"
_REQUEST: Final = re.compile(r'"([A-Z]+) (/v2/\S*) HTTP/[0-9.]+" (\d+) ')


def missing(*programs: str) -> str:
    """Return why tests with these programs cannot run; empty if they can."""
    gone = [program for program in programs if shutil.which(program, path="/usr/bin:/usr/sbin") is None]
    return f"not on this machine: {', '.join(gone)}" if gone else ""


@dataclass(frozen=True)
class Issuer:
    """Token service that the registry names, and the certificates that it trusts for tokens."""

    realm: str
    service: str
    name: str
    certificates: Path


class Registry:
    """A registry's process, between entering and leaving. `password` and `issuer` exclude each other."""

    def __init__(
        self,
        place: Path,
        *,
        authority: trustme.CA | None = None,
        password: bool = False,
        issuer: Issuer | None = None,
        address: str = "localhost",
    ) -> None:
        self.place = place
        self.port = ports.free()
        self._address = address
        self.host = f"{address}:{self.port}"
        self.url = f"{'https' if authority else 'http'}://{self.host}"
        self._authority = authority
        self._password = password
        self._issuer = issuer
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.place.mkdir(exist_ok=True)
        (self.place / "htpasswd").write_text(_HTPASSWD)
        # JSON is YAML.
        (self.place / "config.yml").write_text(json.dumps(self._config()))
        with (self.place / "log").open("ab") as log:
            command = [PROGRAM, "serve", str(self.place / "config.yml")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            eventually(self._status, 20, lambda: f"an answer ({(self.place / 'log').read_text()})")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _config(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": self.host, "secret": "of this registry"}
        if self._authority:
            certificate = self._authority.issue_cert(self._address)
            certificate.private_key_pem.write_to_path(self.place / "key.pem")
            (self.place / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
            http["tls"] = {"certificate": str(self.place / "chain.pem"), "key": str(self.place / "key.pem")}
        auth: dict[str, Any] = {}
        if self._password:
            auth["htpasswd"] = {"realm": "agents", "path": str(self.place / "htpasswd")}
        if self._issuer:
            auth["token"] = {
                "realm": self._issuer.realm,
                "service": self._issuer.service,
                "issuer": self._issuer.name,
                "rootcertbundle": str(self._issuer.certificates),
            }
        return {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(self.place / "data")}},
            "http": http,
            **({"auth": auth} if auth else {}),
        }

    def _status(self) -> int:
        try:
            return httpx.get(f"{self.url}/v2/", verify=self._context()).status_code
        except httpx.TransportError:
            return 0

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._authority:
            self._authority.configure_trust(context)
        return context

    def push(self, path: str, image: images.Image, tag: str = "1", token: str = "") -> str:
        """Put an image there; its digest."""
        auth = (USER, PASSWORD) if self._password else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(verify=self._context(), auth=auth, headers=headers, timeout=30) as http:
            return images.push(http, f"{self.url}/v2/{path}", image, tag)

    def requests(self) -> list[tuple[str, str, int]]:
        """Method, path and status of everything that was asked so far."""
        text = (self.place / "log").read_text(errors="replace")
        return [(method, path, int(status)) for method, path, status in _REQUEST.findall(text)]

    def corrupt_blob(self, digest: str) -> None:
        """Have another byte in a blob than its digest says."""
        name = digest.removeprefix("sha256:")
        file = self.place / f"data/docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    def delete_blob(self, digest: str) -> None:
        name = digest.removeprefix("sha256:")
        shutil.rmtree(self.place / f"data/docker/registry/v2/blobs/sha256/{name[:2]}/{name}")


class Tokens:
    """Issues tokens that a `Registry` takes, to whom has the password or to everybody."""

    def __init__(self, place: Path, authority: trustme.CA, *, password: bool = True, seconds: int = 300) -> None:
        self.seconds = seconds
        self.asked: list[dict[str, str]] = []
        """The query of each request, and who came as `user`."""
        self._password = password
        leaf = authority.issue_cert("tokens.example", key_type=trustme.KeyType.ECDSA)
        key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
        self._chain = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
        authority.cert_pem.write_to_path(place / "tokens.pem")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        realm = f"https://localhost:{self._server.server_port}/token"
        self.issuer = Issuer(realm, "the registry", "the issuer", place / "tokens.pem")

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self, path: str, actions: Sequence[str] = ("pull",)) -> str:
        """For a repository (distribution's token specification; RFC 7519)."""
        now = int(datetime.datetime.now(datetime.UTC).timestamp())
        claims = {
            "iss": self.issuer.name,
            "aud": self.issuer.service,
            "sub": USER,
            "iat": now,
            "nbf": now - 5,
            "exp": now + self.seconds,
            "access": [{"type": "repository", "name": path, "actions": list(actions)}],
        }
        header = {"typ": "JWT", "alg": "ES256", "x5c": [self._chain]}
        signed = f"{_url(json.dumps(header).encode())}.{_url(json.dumps(claims).encode())}"
        r, s = utils.decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_url(r.to_bytes(32) + s.to_bytes(32))}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        tokens = self
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
                known = self.headers.get("Authorization", "") == basic
                tokens.asked.append({**query, "user": USER if known else ""})
                refused = tokens._password and not known
                path = query["scope"].split(":")[1]
                said = {"errors": [{"message": "who are you?"}]} if refused else {"token": tokens.token(path)}
                body = json.dumps({**said, "expires_in": tokens.seconds}).encode()
                self.send_response(401 if refused else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        return Handler


def _url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def pull_secret(*hosts: str, user: str = USER, password: str = PASSWORD) -> dict[str, str]:
    """The content of a pull secret for these registries."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {".dockerconfigjson": json.dumps({"auths": {host: {"auth": auth} for host in hosts}})}


class Front:
    """nginx, between entering and leaving: `server` is what its configuration says in there."""

    PROGRAM: Final = "nginx"

    def __init__(self, place: Path, server: str, more: str = "") -> None:
        self.place = place
        self.port = ports.free()
        self.host = f"localhost:{self.port}"
        self._text = f"""
            daemon off; master_process off; pid {place}/pid; error_log {place}/errors;
            events {{}}
            http {{
                log_format all '$msec $body_bytes_sent "$request" $status range=$http_range by=$http_authorization';
                access_log {place}/access all;
                client_body_temp_path {place}/body; proxy_temp_path {place}/proxied;
                fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
                {more}
                server {{ listen 127.0.0.1:{self.port}; location = /started {{ return 204; }} {server} }}
            }}
        """
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.place.mkdir(exist_ok=True)
        (self.place / "nginx.conf").write_text(self._text)
        program = shutil.which(self.PROGRAM, path="/usr/bin:/usr/sbin")
        with (self.place / "output").open("ab") as log:
            command = [program or self.PROGRAM, "-p", str(self.place), "-c", str(self.place / "nginx.conf")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            eventually(self._answers, 20, lambda: f"an answer ({(self.place / 'output').read_text()})")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://{self.host}/started").status_code == 204
        except httpx.TransportError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def requests(self) -> list[tuple[str, str, int]]:
        """Method, path and status, as of a `Registry`."""
        return [(method, path, int(status)) for method, path, status in _REQUEST.findall("\n".join(self.lines()))]

    def lines(self) -> list[str]:
        """The log: when, bytes of the body, what was asked, the status, and the headers for a range and a login."""
        return (self.place / "access").read_text(errors="replace").splitlines()

    def answers(self, part: str) -> list[tuple[float, int]]:
        """When answers to requests with this in them ended, by this machine's clock, and their status."""
        found = [line.split('"') for line in self.lines() if part in line]
        return [(float(before.split()[0]), int(after.split()[0])) for before, _, after in found]
