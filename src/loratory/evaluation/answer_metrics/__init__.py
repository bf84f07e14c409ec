"""Metrics of predicted answers, one module for each family; `registry` knows them all."""
