"""Hostile packages and requests by the hundred thousand: built wrongly and then altered.

A case is made from a source of chance. For the long run (`make fuzz`) that is a seed and the case's number, which
reproduce it; in the unit ring it is Hypothesis, which makes a failing case small.

    tars, zipfiles ─> a case: bytes, and whether they are valid
    readings       content by the standard library's reading of the same bytes, layers merged plainly
    judging        unpack it, and compare
    csi_requests   calls of kubelet's, and the server's handlers that have to bear them
    admission_reviews
                   requests of API servers to the webhook, from body to answer
"""
