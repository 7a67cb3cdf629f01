"""The parts of ``--criterion stochastic_graph``: settings, feeding, costs, estimators, log."""
