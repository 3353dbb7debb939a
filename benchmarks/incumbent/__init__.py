"""The driver beside the Dynatrace Operator's, on one machine in one run.

    python -m tests.cluster python -m benchmarks.incumbent

Run it in a sandbox, as `make bench-incumbent` does. The Dynatrace Operator is the release in `tests/incumbent/go.mod`,
a built program that nothing else here uses. Each driver is a server and a provisioner on a real API server, with a data
directory and a kubelet's directory of its own on the same disk. Each provisioner downloads the same package from the
same stand-in for a tenant. The same client calls them in turns.

The two differ in what a call does:

    here         writes the pod's identity into a new upper layer, mounts one overlay by mount(2), and writes the volume
                 into its database
    operator     reads and writes its database, mounts an overlay and binds it to the target with the program mount(8).
                 It writes nothing for the pod: that is done by an init container

    drivers      the two as processes
    measures     calls, bursts, processor time and memory
"""
