"""Images in registries and in OCI image layouts: resolve, verify, download.

Implements the OCI distribution specification 1.1 and Docker's registry API before it. Content is identified by its
digest, so any host may send it: mirrors come first, over plain HTTP if so configured, and every manifest and layer is
hashed before it is used.

    reference           names of images, in registries and in layouts
    pull_secret         credentials
    hosts               hosts of an image in their order, and registries that are not allowed
    auth                tokens and passwords that a host requires
    repository          manifests and layers of one host
    layout              manifests and layers of a directory
    manifest            content of a manifest; choice of an index's image for this machine
    image               an image from the first host that has it
    signatures          verification of an image's signatures
    cosign_payload      content of a signature
    public_keys         PEM text of keys
    signature_keys      cryptography, loaded only where signatures are required

Errors come from `http.errors` if a host is the reason, from `unpack` if the image is, and are
`InvalidSettingsError` if our own settings are.

The library `oras` was considered and not used. It needs requests, a second HTTP client in the memory of every node
with its own proxies and authorities. It reads layers without resuming them, and keeps credentials in a file.
"""
