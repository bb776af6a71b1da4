"""Which neurons: rules of roles, candidates, the universal set, tables of neurons."""
