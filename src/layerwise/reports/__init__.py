"""Figures, tables and pages made from results. Imports no domain package."""
