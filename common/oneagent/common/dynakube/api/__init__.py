"""The DynaKube API as one model: its fields, its versions, the conversion between them, and the CRD.

    versions           names of the versions
    fields             fields of the newest version, as an OpenAPI schema
    feature_flags      the feature flags, which are annotations
    version_history    changes of fields by version: the one table behind older schemas and conversion
    change_kinds       the kinds of changes
    conversion         lossless conversion between versions
    crd                the CustomResourceDefinition with all versions

All of it is data and pure functions.
"""
