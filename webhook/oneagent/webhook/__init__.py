"""The admission server: it mutates pods, labels namespaces, and validates and converts DynaKubes."""
