"""Command line for a whole cluster, wherever the user's `kubectl` works: `kubectl oneagent …`.

    main             flags and subcommands
    kubectl          access to the cluster
    snapshot         everything that is read of the cluster
    node_reports     reports of `oneagent-csi` in the driver's pods
    tls_check        certificates that the webhook's pods serve
    status           nodes and DynaKubes in two tables
    doctor           problems of the installation, and their remedies
    why              diagnosis of one pod
    output           tables and text for a terminal
    support_archive  all of it in one file for support, without secrets

It reads only and runs on users' machines, so it imports neither a Kubernetes client nor gRPC. Unreadable parts become
findings, and the rest is still reported.
"""
