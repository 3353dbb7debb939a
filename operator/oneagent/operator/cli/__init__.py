"""What a person asks of a whole cluster, from wherever their `kubectl` works: `kubectl oneagent …`.

    command      the command line
    kubectl      the way to the cluster
    cluster      all that is read of it, as one picture
    drivers      the driver's pods, and what they say of their nodes
    serving      which certificates the webhook serves
    status       the nodes and DynaKubes in two tables
    doctor       what is wrong with the installation, and what to do
    why          why one pod has its agent, or has none
    terminal     what others have written, fit to be shown
    archive      all of it in one file for those who help, without secrets

It reads and never writes, and it runs on people's own machines: it needs neither the operator's Kubernetes client nor
the driver's gRPC. What can't be read is a finding like any other, and no reason to say nothing of the rest.
"""
