"""Throughput and memory on a GPU: this project and TRL on random models of real shapes."""
