"""TLS check of a webhook pod: the certificate that it serves, verified as by the API server.

A real handshake through `kubectl port-forward` trusts the API server's CA bundle only. So no Secret is read, and the
check covers what the API server sees.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.operator.cli.kubectl import Kubectl, KubectlError

PORT: Final = "https"
"""Name of the webhook's port in its pods"""
_FORWARDED: Final = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+)")
_PIECE: Final = 4096


@dataclass(frozen=True, slots=True)
class ServedCertificate:
    """Certificate of a pod. `problem`: why the API server refuses it; `unreachable`: why there was no handshake."""

    pod: str
    not_before: float = 0.0
    ends: float = 0.0
    problem: str = ""
    unreachable: str = ""


def probe(client: Kubectl, pod: str, bundle: str, host: str) -> ServedCertificate:
    """Probe a pod; `bundle` is the CA bundle as PEM text, `host` the name that the API server calls."""
    try:
        context = create_context(bundle)
    except ssl.SSLError as error:
        return ServedCertificate(pod, problem=f"caBundle holds no certificates ({error.reason})")
    arguments = ("port-forward", "-n", client.namespace, f"pod/{pod}", f":{PORT}", "--address=127.0.0.1")
    try:
        with client.running(*arguments) as process:
            assert process.stdout is not None
            if not (found := _FORWARDED.match(process.stdout.readline())):
                process.kill()
                raise KubectlError(f"kubectl port-forward pod/{pod}: {_words(process.communicate()[1])}")
            return _handshake(pod, context, int(found[1]), host, client.timeout_seconds)
    except KubectlError as error:
        return ServedCertificate(pod, unreachable=str(error))


def create_context(bundle: str) -> ssl.SSLContext:
    """Return a context that verifies as the API server does; `ssl.SSLError` if the bundle is no PEM text."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Some versions of Python require more of a certificate than Go's verification in API servers does.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=bundle)
    return context


def is_overdue(served: ServedCertificate, now: float) -> bool:
    """Return True if it should have been renewed, which happens at two thirds of its lifetime."""
    return now > served.not_before + 0.75 * (served.ends - served.not_before)


def _handshake(pod: str, context: ssl.SSLContext, port: int, host: str, limit_seconds: float) -> ServedCertificate:
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=limit_seconds) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            certificate: Mapping[str, Any] = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return ServedCertificate(pod, problem=error.verify_message)
    except OSError as error:
        return ServedCertificate(pod, unreachable=f"no TLS with pod {pod}: {error}")
    not_before, ends = (ssl.cert_time_to_seconds(str(certificate[key])) for key in ("notBefore", "notAfter"))
    return ServedCertificate(pod, not_before, ends)


def _words(stderr: bytes) -> str:
    return stderr.decode(errors="replace").strip() or "no response in time"
