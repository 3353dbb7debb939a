"""The DynaKube API as one model: its fields, its versions, the conversion between them, and the CRD.

    fields        what the newest version has, in the form of an OpenAPI schema
    features      the feature flags, which are annotations
    moves         where a field was in older versions: the one table that schemas and conversion come from
    kinds         the kinds of moves that there are
    conversion    an object of one version as one of another, losing nothing
    crd           the CustomResourceDefinition with all of them

Nothing in it talks to anybody: data and functions of data only.
"""
