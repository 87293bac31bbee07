"""Charts of interventions: maps over layers, heads and positions, curves beside their anchors."""
