"""The data sets that corral ships: one file a set, which registers it."""
