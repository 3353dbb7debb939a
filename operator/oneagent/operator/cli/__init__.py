"""Command line for a whole cluster, wherever the user's `kubectl` works: `kubectl oneagent …`.

    main             commands
    arguments        flags, and what may stand where
    completion       candidates for a shell
    kubectl          access to the cluster
    locate           namespace of the installation
    snapshot         everything that is read of the cluster
    node_reports     reports of `oneagent-csi` in the driver's pods
    tls_check        certificates that the webhook's pods serve
    status           components, nodes, DynaKubes, and what needs attention
    doctor           checks of the installation, and their remedies
    why              diagnosis of a pod, or of all pods of a workload
    versions         versions of this command and of the components
    output           text of status and doctor, and progress on a terminal
    support_archive  all of it in one file for support, without secrets

It reads only and runs on users' machines, so it imports neither a Kubernetes client nor gRPC. Unreadable parts become
findings, and the rest is still reported.
"""
