"""Remedies of failed installs, polls of the tenant and attempts to publish, found by their message.

The message is all that travels: through the node's database to its commands, and through its Lease to the operator and
`kubectl oneagent`, perhaps of another release. Many messages end with their own remedy. Others are known by their
words; tests take these from the errors themselves.
"""

from __future__ import annotations

import re
from typing import Final

GENERAL: Final = "correct what the reason names: the version or image, the token, the network or the disk"

_RETRY: Final = re.compile(r"(?:; next try at \S+|; trying again \(\w+\)|; the last known endpoints stay in use)+$")
_TOKEN: Final = re.compile(r"answered 40[13]\b.*\(check \w+ of the DynaKube's secret")
_TOKEN_MISSING: Final = re.compile(r"the Secret \S+ with the tokens does not exist|(?:api|paas)Token: (?:empty|holds)")
_OWN: Final = (
    re.compile(r" \((check [^()]*|there are no credentials [^()]*|use a token [^()]*)\)$"),
    re.compile(r": ((?:add|check|choose|correct|create|export|have|name|put|renew|use) .*)$"),
)
_BY_WORDS: Final = tuple(
    (re.compile(pattern), remedy)
    for pattern, remedy in (
        (r"is not known on this node$", "create it, or wait until this node has read it"),
        (
            r"a web page instead of a package",
            "let the cluster pass the proxy without a login page, or set spec.proxy",
        ),
        (r"answered 40[13]\b", "check the token in the DynaKube's Secret, or the credentials in its pull secret"),
        (
            r"/installer/agent/.*answered 404\b",
            "set codeModulesVersion of the DynaKube to a version that the tenant has, or remove it to follow the "
            "tenant's latest",
        ),
        (r"answered 404\b", "correct the name of the image, or push it to the registry"),
        (r"answered 407\b|the proxy refused", "check the address and the user in spec.proxy, and the proxy's rules"),
        (r"answered (?:429|5\d\d)\b", "check that server"),
        (
            r"No space left|are needed.* are free|do not fit into|inodes are free|MiB of the disk are free|quota",
            "free space on the disk of the node's data directory, or raise --disk-budget if it is set; restart pods "
            "that use old versions, so that those can be removed",
        ),
        (
            r"SHA-256 is|its digest is|(?:was|were) expected|bytes, (?:its manifest|\S+) says|has changed since",
            "look for what changes the file on its way, such as a proxy or a mirror; copy a file on the node again",
        ),
        (
            r"is not signed",
            "sign the image with one of the required keys, or add the key that has signed it to them",
        ),
        (r"host name cannot be resolved", "correct the server's name, or the DNS of the cluster"),
        (
            r"cannot connect|did not (?:connect|answer) in time|connection (?:broke|ended)",
            "allow connections from the cluster to that server, in firewalls and network policies, or set spec.proxy",
        ),
        (
            r"is for .+, this (?:node )?is |has no image for ",
            "name a package or an image for the architecture of the nodes",
        ),
    )
)


def split(message: str) -> tuple[str, str]:
    """Return the cause that a message has, and the remedy; empty if none is known."""
    retry = match[0] if (match := _RETRY.search(message)) else ""
    cause = message.removesuffix(retry)
    for pattern in _OWN:
        if match := pattern.search(cause):
            return f"{cause[: match.start()]}{retry}", match[1]
    return message, next((remedy for pattern, remedy in _BY_WORDS if pattern.search(cause)), "")


def is_token_refused(message: str) -> bool:
    """Return True if the tenant has refused the token of the DynaKube's Secret."""
    return bool(_TOKEN.search(message))


def is_about_token(message: str) -> bool:
    """Return True if the tenant has refused the token, or the DynaKube's Secret has none that can be used."""
    return is_token_refused(message) or bool(_TOKEN_MISSING.search(message))
