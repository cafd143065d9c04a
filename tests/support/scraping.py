"""Metrics as Prometheus reads them."""

from prometheus_client.parser import text_string_to_metric_families


def samples(text):
    """Read an exposition: name and label values, in the order of the labels' names, to value."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, *(value for _, value in sorted(sample.labels.items())))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found
