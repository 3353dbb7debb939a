"""A new pair is served at once, to new connections only, and never a bad one."""

from __future__ import annotations

import asyncio
import base64
import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from oneagent.common.http import server_tls
from oneagent.common.http.server_tls import Pair, ServerTls, UnusableCertificateError
from oneagent.webhook import api, certificates
from tests.fakes import kube_api
from tests.fakes import webhook as fakes

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cart"}}
RSA, ECDSA = trustme.KeyType.RSA, trustme.KeyType.ECDSA


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def serving() -> Iterator[fakes.Serving]:
    with fakes.Serving() as serving:
        yield serving


def served(serving: fakes.Serving, **limits: ssl.TLSVersion) -> bytes:
    """The certificate that a new connection gets, in DER form."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, version in limits.items():
        setattr(context, name, version)
    address = ("127.0.0.1", serving.server.port)
    with socket.create_connection(address, 10) as plain, context.wrap_socket(plain) as connection:
        return connection.getpeercert(binary_form=True) or b""


def der(pair: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.chain.decode().partition("-----END")[0] + "-----END CERTIFICATE-----\n")


def ended(authority: trustme.CA, seconds: float) -> Pair:
    """One that ends so many seconds from now."""
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    leaf = authority.issue_cert(fakes.HOST, not_before=end - datetime.timedelta(days=1), not_after=end)
    return Pair(leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes())


def mixed(authority: trustme.CA) -> Pair:
    return Pair(fakes.pair(authority).chain, fakes.pair(authority).key)


class TestANewPair:
    @pytest.mark.parametrize("kinds", [(RSA, ECDSA), (ECDSA, RSA), (ECDSA, ECDSA)])
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_is_served_to_everybody_whatever_its_key(
        self, serving: fakes.Serving, kinds: tuple[trustme.KeyType, ...], version: ssl.TLSVersion
    ) -> None:
        for kind in kinds:
            pair = fakes.pair(trustme.CA(), kind)
            serving.serve(pair)
            assert served(serving, maximum_version=version) == der(pair)

    def test_costs_no_request(self, serving: fakes.Serving) -> None:
        authorities = [serving.authority, trustme.CA()]
        enough, answers = threading.Event(), [0, 0]

        def ask(number: int, anew: bool) -> None:
            client = serving.client(*authorities)
            while not enough.is_set():
                if anew:
                    client.close()
                    client = serving.client(*authorities)
                assert fakes.ask(client, "/inject", fakes.review(POD))["allowed"]
                answers[number] += 1
            client.close()

        callers = [threading.Thread(target=ask, args=one) for one in ((0, False), (1, True))]
        for caller in callers:
            caller.start()
        for number in range(20):
            before = sum(answers)
            serving.serve(fakes.pair(authorities[number % 2], (RSA, ECDSA)[number % 2]))
            while sum(answers) < before + 5 and all(caller.is_alive() for caller in callers):
                time.sleep(0.001)
        enough.set()
        for caller in callers:
            caller.join()
        assert serving.counted("/inject", "injected") == sum(answers)
        assert min(answers) > 5

    def test_leaves_connections_as_they_are(self, serving: fakes.Serving) -> None:
        with serving.client() as client:
            client.post("/inject", json=fakes.review(POD))
            serving.serve(fakes.pair(trustme.CA()))
            assert client.post("/inject", json=fakes.review(POD)).status_code == 200

    def test_tells_when_it_ends(self, serving: fakes.Serving, authority: trustme.CA) -> None:
        serving.serve(ended(authority, 3600))
        gauge = serving.registry.get_sample_value("oneagent_webhook_certificate_expiration_timestamp_seconds")
        assert gauge == pytest.approx(time.time() + 3600, abs=5)


class TestABadPair:
    @pytest.mark.parametrize(
        "make",
        [
            mixed,
            lambda authority: Pair(b"", b""),
            lambda authority: Pair(b"\xff", b"\xff"),
            lambda authority: Pair(fakes.pair(authority).chain, b"-----BEGIN ENCRYPTED PRIVATE KEY-----"),
            lambda authority: Pair(fakes.pair(authority).chain[:200], fakes.pair(authority).key),
            lambda authority: ended(authority, -60),
        ],
    )
    def test_is_refused_once_and_the_one_before_stays(
        self,
        serving: fakes.Serving,
        authority: trustme.CA,
        caplog: pytest.LogCaptureFixture,
        make: Callable[[trustme.CA], Pair],
    ) -> None:
        before, bad = served(serving), make(authority)
        serving.serve(bad)
        serving.serve(bad)
        assert served(serving) == before
        assert serving.tls.problem(time.time()) == ""
        refusals = [record for record in caplog.records if record.message == "certificate rejected"]
        assert len(refusals) == 1
        assert bad.key.decode(errors="ignore")[40:80] not in str(refusals[0].__dict__) or not bad.key[40:80]


class TestASecret:
    @pytest.mark.parametrize(
        "data", [None, {}, {"tls.crt": ""}, {"tls.crt": "!", "tls.key": "!"}, {"tls.crt": "YQ==", "tls.key": "a"}]
    )
    def test_without_a_pair_can_not_be_used(self, data: dict[str, str] | None) -> None:
        with pytest.raises(UnusableCertificateError, match=r"tls.crt or tls.key"):
            certificates.from_secret(certificates.Secret(data))

    def test_is_followed_by_a_watch(self, tmp_path: Path, authority: trustme.CA) -> None:
        async def follow() -> list[str]:
            changed = asyncio.Event()
            tls = ServerTls(lambda _: changed.set())
            server = api.connect(kube.kubeconfig(tmp_path / "kubeconfig"))
            watch = certificates.watch(server, "dynatrace", "certs", tls)
            following = asyncio.create_task(watch.run())
            await asyncio.wait_for(watch.wait_until_synced(), 10)
            troubles = [tls.problem(time.time())]
            for kind in (ECDSA, RSA):
                changed.clear()
                kube.put("secrets", secret("certs", fakes.pair(authority, kind)))
                await asyncio.wait_for(changed.wait(), 10)
                troubles.append(tls.problem(time.time()))
            kube.delete("secrets", "certs")
            await asyncio.sleep(0.05)
            following.cancel()
            await server.close()
            return [*troubles, tls.problem(time.time())]

        with kube_api.KubeApi() as kube:
            missing, *taken = asyncio.run(follow())
            assert kube.seen("secrets")[0].query["fieldSelector"] == "metadata.name=certs"
        assert missing == "there is no certificate: the Secret is not there"
        assert taken == ["", "", ""]


def secret(name: str, pair: Pair) -> fakes.Json:
    content = {"tls.crt": pair.chain, "tls.key": pair.key}
    data = {key: base64.b64encode(value).decode() for key, value in content.items()}
    return {"kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name}, "data": data}


class TestAFolder:
    def test_is_followed(self, tmp_path: Path, authority: trustme.CA) -> None:
        def write(pair: Pair) -> None:
            (tmp_path / "tls.key").write_bytes(pair.key)
            (tmp_path / "tls.crt").write_bytes(pair.chain)

        async def follow() -> list[str]:
            changed = asyncio.Event()
            tls = ServerTls(lambda _: changed.set())
            following = asyncio.create_task(certificates.follow(tmp_path, tls, 0.01))
            await asyncio.sleep(0)
            troubles = [tls.problem(time.time())]
            for pair in (fakes.pair(authority), fakes.pair(authority, RSA)):
                changed.clear()
                write(pair)
                await asyncio.wait_for(changed.wait(), 10)
                troubles.append(tls.problem(time.time()))
            following.cancel()
            return troubles

        missing, *taken = asyncio.run(follow())
        assert missing == f"there is no certificate: {tmp_path}/tls.crt: No such file or directory"
        assert taken == ["", ""]


class TestTrouble:
    def test_is_a_certificate_that_is_not_valid_now(self, authority: trustme.CA) -> None:
        tls = ServerTls()
        assert tls.problem(time.time()) == "there is no certificate: none has been read yet"
        tls.load(lambda: ended(authority, 3600))
        assert tls.problem(time.time()) == ""
        assert tls.problem(time.time() + 3700) == "the certificate is not valid at this time"
        assert tls.problem(time.time() - 2 * 86400) == "the certificate is not valid at this time"

    def test_ends_every_handshake_while_there_is_no_certificate(self) -> None:
        client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ServerTls().context
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        with pytest.raises(ssl.SSLError):
            server_tls._handshake(client, server)
