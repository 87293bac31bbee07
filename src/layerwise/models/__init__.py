"""Models: loading, catalogue, sites, taps. A plain library."""
