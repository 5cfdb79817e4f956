"""The evaluation of answers on a run's page."""
