"""Certificates of the webhook: made, renewed and published without an admission request being lost.

`keys` makes and reads keys and certificates, `held` reads what is in the cluster, `rotation` decides what is to be
done next, `keeper` does it. `endpoints` asks the webhook's endpoints which certificate they serve.
"""
