"""The load of a cluster of thousands of nodes on its API server and its tenant.

    python -m tests.cluster python -m benchmarks.fleet --nodes 1000

Run it in a sandbox, as `make bench-fleet` does. The API server, etcd and the operator are real. Each node is the
provisioner's own code for its DynaKube source, polls, desired state, back-off and reports, with its own connections
(`node`). It has no store and downloads nothing: a version arrives after the product's random delay. Many nodes share
a process (`process`), and a process has its own interpreter. The tenant is the double, with the rate limit of a real
one.

    measures     counts of requests and bytes, from the API server's audit log and metrics
    scenarios    the changes, and the time until nodes have them
"""
