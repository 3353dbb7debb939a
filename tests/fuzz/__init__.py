"""Packages that nobody should send, by the hundred thousand: zips and layers that are built oddly and then altered.

A case is made from a source of chance. For the long run (`make fuzz`) that is a seed and the case's number, which
say all of it again; in the unit ring it is Hypothesis, which makes a failing case small.

    tars, zipfiles ─> a case: bytes, and whether they are sound
    readings       what the standard library reads in the same bytes, layers put over each other plainly
    judging        unpack it, and compare
"""
