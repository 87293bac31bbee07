"""The only code that imports mlflow: runs, lineage, queries, servable models."""
