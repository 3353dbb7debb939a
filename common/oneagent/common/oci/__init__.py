"""Images in registries, as the OCI distribution specification 1.1 and Docker's registry API before it have them.

What is fetched is known by its digest, so it does not matter who sends it: mirrors are asked first, over plain
HTTP if somebody wants that, and every manifest and layer is hashed before it is used.

    references      (one folder up) the names of images
    imagefolders    (there, too) the names of images in folders
    credentials     pull secrets
    registries      which hosts are asked for an image, in what order, and which are not
    logins          tokens and passwords: what a host wants to see before it answers
    holders         who has manifests and layers
    repositories    one host's manifests and layers
    folders         those of a folder on this machine
    manifests       what a manifest says; which of an index is for this machine
    images          an image from the first host that has it
    signatures      whether an image is signed, and with which key
    claims          what a signature says that it is of
    keys            the cryptography of it, which only who asks for signatures needs in memory

Errors are those of `httpfaults` where a host is the reason, of `packages` where the image is, and
`httpclient.InvalidSettingsError` where our own settings are.

The library `oras` was considered and left: it stands on requests, which would be a second HTTP client in the
memory of every node with its own ideas of proxies and authorities, reads layers without resuming them, and keeps
credentials in a file of the user's.
"""
