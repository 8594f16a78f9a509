"""Probes with trained heads, few-shot protocol, and the metrics that all probes share."""
