"""Measure latency, throughput, accuracy, memory and load; one small module each."""
