"""Certificates of the webhook: issued, renewed and published without losing an admission request.

`x509` creates and parses keys and certificates, `cluster_state` reads and builds the objects in the cluster,
`rotation` decides the next step, `controller` executes it, `probe` reads which certificate the webhook's endpoints
serve. `serving_cert` issues the package server's certificate.
"""
