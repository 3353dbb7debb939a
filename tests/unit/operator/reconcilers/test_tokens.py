"""The condition of the tokens, from the last poll of the tenant."""

from __future__ import annotations

import pytest

from oneagent.common import dynakube
from oneagent.common.tenant import poll
from oneagent.common.tenant.inputs import Inputs
from oneagent.common.tenant.poll import TenantState
from oneagent.operator.reconcilers import tokens
from tests.fakes.provisioner import manifest
from tests.fakes.tenant import Fault, Tenant


def message(tokens_of_secret: dict[str, str], tenant: Tenant, *, scopes: bool) -> str:
    kube = dynakube.from_object(manifest(api_url=tenant.api_url))
    objects = Inputs({("Secret", "demo"): tokens_of_secret})
    requests = poll.Requests(latest=False, scopes=scopes)
    state = poll.poll(kube, objects, TenantState(), requests=requests, now=lambda: 1.0)
    result = tokens.decide(tenant.api_url, "demo", state)
    assert result is not None
    assert (result.status, result.reason) == ("True", tokens.READY)
    return result.message


@pytest.mark.parametrize("scopes", [True, False])
def test_a_token_for_downloads_alone_is_told_to_be_deprecated(scopes: bool) -> None:
    with Tenant() as tenant:
        told = message({"apiToken": "another", "paasToken": tenant.token}, tenant, scopes=scopes)
        assert told.endswith(
            "; paasToken, which is used, is deprecated: give apiToken the scope InstallerDownload and remove paasToken"
        )
        assert "paasToken" not in message({"apiToken": tenant.token}, tenant, scopes=scopes)


def test_scopes_that_cannot_be_looked_up_are_told_with_the_reason() -> None:
    with Tenant() as tenant:
        tenant.plan("scopes", Fault(status=500))
        told = message({"apiToken": tenant.token}, tenant, scopes=True)
    assert told.startswith("the tenant accepts the token; the token's scopes are not known: http://")
    assert "/tokens/lookup: answered 500" in told.lower() or "/apitokens/lookup: answered 500" in told.lower()
