"""Probes: estimators, fast solvers, neural and online probes, evaluation, controls. A plain library."""
