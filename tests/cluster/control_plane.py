"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler, with RBAC and admission as in production."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.cluster import pki
from tests.cluster.processes import Program
from tests.cluster.sandbox_init import NODE_ADDRESS

BIN: Final = Path(__file__).parent / "bin"
SERVER: Final = f"https://{NODE_ADDRESS}:6443"
SERVICES: Final = "10.96.0.0/16"
PODS: Final = "10.244.0.0/24"

_ETCD: Final = "http://127.0.0.1:2379"
_ADMIN_GROUP: Final = "system:masters"

# What service accounts of this project's namespace asked for, without the bodies. The steps before the answer would
# double the log.
_AUDIT_POLICY: Final = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, userGroups: ["system:serviceaccounts:dynatrace"]}
  - {level: None}
"""
# Of the second one OpenShift has a like. It refuses owner references that block without a right to the owner's
# finalizers, and for some seconds those to a kind that has just been defined.
_ADMISSION: Final = "NodeRestriction,OwnerReferencesPermissionEnforcement"


class ControlPlane:
    """Its programs as attributes; `audit` is the API server's log of what this project's service accounts asked for."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.url = SERVER
        self.authority = pki.Authority(folder / "pki")
        self.admin = self.authority.kubeconfig("admin", SERVER, common_name="admin", groups=[_ADMIN_GROUP])
        self.audit = folder / "audit.log"
        self._tls = ssl.create_default_context(cafile=str(self.authority.certificate))
        self._tls.load_cert_chain(folder / "pki/admin.crt", folder / "pki/admin.key")
        self.etcd = self._etcd()
        self.apiserver = self._apiserver()
        self.controllers = self._controllers()
        self.scheduler = self._scheduler()

    def programs(self) -> tuple[Program, ...]:
        """In the order in which they need each other."""
        return self.etcd, self.apiserver, self.controllers, self.scheduler

    def start(self) -> None:
        for program in (self.etcd, self.apiserver):
            program.start()
            program.wait_ready()
        for program in (self.controllers, self.scheduler):
            program.start()
        for program in (self.controllers, self.scheduler):
            program.wait_ready()

    def healthy(self, url: str) -> bool:
        """Whether a URL answers 200; asked with the administrator's certificate."""
        with urllib.request.urlopen(url, timeout=5, context=self._tls if url.startswith("https") else None):
            return True

    def call(self, method: str, path: str, patch: Mapping[str, Any] | None = None) -> Any:
        """One request as administrator, for what has to be quicker than kubectl; `patch` is a merge patch."""
        return self._request(method, path, patch, "application/merge-patch+json")

    def create(self, path: str, obj: Mapping[str, Any]) -> Any:
        """Create an object as administrator; return it as the API server has it."""
        return self._request("POST", path, obj, "application/json")

    def _request(self, method: str, path: str, content: Mapping[str, Any] | None, content_type: str) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(SERVER + path, body, {"Content-Type": content_type}, method=method)
        with urllib.request.urlopen(request, timeout=20, context=self._tls) as response:
            return json.load(response)

    def text(self, path: str) -> str:
        """Return an answer of the API server as text, such as its metrics."""
        with urllib.request.urlopen(SERVER + path, timeout=20, context=self._tls) as response:
            return str(response.read().decode())

    def _program(self, name: str, ready: str, command: list[str | Path]) -> Program:
        return Program(name, command, self._folder / f"{name}.log", lambda: self.healthy(ready))

    def _etcd(self) -> Program:
        command: list[str | Path] = [
            "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={_ETCD}",
            f"--advertise-client-urls={_ETCD}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=warn",
            # As kubeadm starts it. API servers send bookmarks to watches at rest only where etcd reports progress.
            "--experimental-watch-progress-notify-interval=5s",
        ]
        return self._program("etcd", f"{_ETCD}/health", command)

    def _apiserver(self) -> Program:
        keys, policy = self._folder / "pki", self._folder / "audit.yaml"
        policy.write_text(_AUDIT_POLICY)
        pki.new_key(keys / "service-accounts.key")
        hosts = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.96.0.1", NODE_ADDRESS, "127.0.0.1"]
        certificate, key = self.authority.issue("apiserver", common_name="kube-apiserver", hosts=hosts)
        client, client_key = self.authority.issue("apiserver-kubelet", common_name="apiserver", groups=[_ADMIN_GROUP])
        command: list[str | Path] = [
            BIN / "kube-apiserver",
            f"--etcd-servers={_ETCD}",
            f"--advertise-address={NODE_ADDRESS}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--kubelet-client-certificate={client}",
            f"--kubelet-client-key={client_key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys / 'service-accounts.key'}",
            f"--service-account-signing-key-file={keys / 'service-accounts.key'}",
            "--authorization-mode=Node,RBAC",
            f"--enable-admission-plugins={_ADMISSION}",
            "--allow-privileged=true",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit}",
        ]
        return self._program("kube-apiserver", f"{SERVER}/readyz", command)

    def _controllers(self) -> Program:
        user = "system:kube-controller-manager"
        command: list[str | Path] = [
            BIN / "kube-controller-manager",
            f"--kubeconfig={self.authority.kubeconfig('controllers', SERVER, common_name=user)}",
            f"--service-account-private-key-file={self._folder / 'pki/service-accounts.key'}",
            f"--root-ca-file={self.authority.certificate}",
            f"--cluster-signing-cert-file={self.authority.certificate}",
            f"--cluster-signing-key-file={self._folder / 'pki/ca.key'}",
            f"--cluster-cidr={PODS}",
            "--allocate-node-cidrs=false",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            # Tests make and remove in a minute what a cluster sees in a week.
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            f"--cert-dir={self._folder / 'pki/controllers'}",
        ]
        return self._insecure("kube-controller-manager", 10257, command)

    def _scheduler(self) -> Program:
        user = "system:kube-scheduler"
        command: list[str | Path] = [
            BIN / "kube-scheduler",
            f"--kubeconfig={self.authority.kubeconfig('scheduler', SERVER, common_name=user)}",
            "--leader-elect=false",
            f"--cert-dir={self._folder / 'pki/scheduler'}",
        ]
        return self._insecure("kube-scheduler", 10259, command)

    def _insecure(self, name: str, port: int, command: list[str | Path]) -> Program:
        """A program with a certificate of its own making, which nobody can check."""
        context = ssl._create_unverified_context()

        def ready() -> bool:
            with urllib.request.urlopen(f"https://127.0.0.1:{port}/healthz", timeout=5, context=context):
                return True

        return Program(name, command, self._folder / f"{name}.log", ready)
