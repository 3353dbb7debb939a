"""Which certificate a pod of the webhook serves, and whether the API server would take it.

The pod is asked by a real TLS handshake through `kubectl port-forward`, with nothing trusted but what the API server
was told to trust. So no Secret is read, and what is checked is what counts.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.operator.cli.kubectl import Kubectl, KubectlError

PORT: Final = 8443
_FORWARDED: Final = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+)")
_PIECE: Final = 4096


@dataclass(frozen=True, slots=True)
class Served:
    """`problem` is why the API server would refuse it; `unasked` why that could not be found out."""

    pod: str
    begins: float = 0.0
    ends: float = 0.0
    problem: str = ""
    unasked: str = ""


def look(to: Kubectl, pod: str, bundle: str, host: str) -> Served:
    """`bundle` is PEM text of what is trusted, `host` the name that the API server calls."""
    try:
        context = trusting(bundle)
    except ssl.SSLError as error:
        return Served(pod, problem=f"caBundle holds no certificates ({error.reason})")
    arguments = ("port-forward", "-n", to.namespace, f"pod/{pod}", f":{PORT}", "--address=127.0.0.1")
    try:
        with to.running(*arguments) as process:
            assert process.stdout is not None
            if not (found := _FORWARDED.match(process.stdout.readline())):
                process.kill()
                raise KubectlError(f"kubectl port-forward pod/{pod}: {_words(process.communicate()[1])}")
            return _handshake(pod, context, int(found[1]), host, to.timeout_seconds)
    except KubectlError as error:
        return Served(pod, unasked=str(error))


def trusting(bundle: str) -> ssl.SSLContext:
    """As the API server verifies; `ssl.SSLError` for what is no PEM text."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Some versions of Python ask for more of a certificate than RFC 5280's implementations in API servers do.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=bundle)
    return context


def overdue(served: Served, now: float) -> bool:
    """Whether it should have been renewed: that happens at two thirds of its time."""
    return now > served.begins + 0.75 * (served.ends - served.begins)


def _handshake(pod: str, context: ssl.SSLContext, port: int, host: str, limit_seconds: float) -> Served:
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=limit_seconds) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            certificate: Mapping[str, Any] = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return Served(pod, problem=error.verify_message)
    except OSError as error:
        return Served(pod, unasked=f"no TLS with pod {pod}: {error}")
    begins, ends = (ssl.cert_time_to_seconds(str(certificate[key])) for key in ("notBefore", "notAfter"))
    return Served(pod, begins, ends)


def _words(stderr: bytes) -> str:
    return stderr.decode(errors="replace").strip() or "no answer in time"
