"""The operator: DynaKubes in, everything that they need on the cluster kept right."""
