"""A package, so that its instances end when its tests have run (pytest's package scope)."""
