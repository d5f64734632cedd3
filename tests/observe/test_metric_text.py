"""Prometheus' text format: how series are written, and how the texts of several processes become one."""

import math

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client import Histogram as ClientHistogram
from prometheus_client.parser import text_string_to_metric_families

from swerve.observe.metrics import Histogram, counter_text, gauge_text, histogram_text, merge, text_of, with_labels

ODD = 'a"b\\c\nd}e{f,replica="g\x85h'


def samples_of(text):
    """All samples as Prometheus' own library reads them: (name, labels, value)."""
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def test_what_is_exported_has_rays_names():
    text = text_of(counter_text("serve_things", "Things.", {(("application", "a"),): 2}))
    assert text.splitlines() == [
        "# HELP ray_serve_things_total Things.",
        "# TYPE ray_serve_things_total counter",
        'ray_serve_things_total{application="a"} 2',
    ]
    assert text.endswith("\n")


def test_a_label_may_have_any_value():
    text = text_of(gauge_text("g", "G.", {(("x", ODD), ("y", "z")): 1.5}))
    assert samples_of(text) == [("ray_g", {"x": ODD, "y": "z"}, 1.5)]


def test_a_histogram_counts_up_to_each_bound():
    histogram = Histogram((1.0, 2.5))
    for value in (0.5, 1.0, 2.0, 100.0):
        histogram.observe(value)
    (family,) = text_string_to_metric_families(text_of(histogram_text("h", "H.", {(): histogram})))
    assert family.type == "histogram"
    found = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    assert found == {
        ("ray_h_bucket", "1"): 2,
        ("ray_h_bucket", "2.5"): 3,
        ("ray_h_bucket", "+Inf"): 4,
        ("ray_h_sum", None): 103.5,
        ("ray_h_count", None): 4,
    }


def test_histograms_add_up():
    one, other = Histogram((1.0,)), Histogram((1.0,))
    one.observe(0.5)
    other.observe(math.pi)
    both = one.plus(other)
    assert (both.counts, both.total, both.count) == ([1, 1], 0.5 + math.pi, 2)
    assert one.counts == [1, 0]


def test_merged_families_stand_once_with_the_samples_of_all():
    texts = [
        text_of(
            counter_text("a", "A.", {(("replica", name),): number})
            + histogram_text("h", "H.", {(("replica", name),): Histogram((1.0,))})
        )
        for number, name in enumerate("xyz")
    ]
    merged = merge(texts)
    assert [line for line in merged.split("\n") if line.startswith("#")] == [
        "# HELP ray_a_total A.",
        "# TYPE ray_a_total counter",
        "# HELP ray_h H.",
        "# TYPE ray_h histogram",
    ]
    expected = [sample for text in texts for sample in samples_of(text)]
    assert sorted(samples_of(merged), key=str) == sorted(expected, key=str)


def test_merging_takes_samples_without_a_head_and_texts_that_are_empty():
    merged = merge(
        ["", 'plain 1\nother{a="b"} 2\n# a remark\n', "# HELP ray_a A.\n# TYPE ray_a gauge\nray_a 1\nlast 3"]
    )
    assert {name: value for name, _, value in samples_of(merged)} == {"plain": 1, "other": 2, "ray_a": 1, "last": 3}


def test_one_text_merges_to_itself():
    registry = CollectorRegistry()
    Counter("calls", "Calls.", ["kind"], registry=registry).labels(kind=ODD).inc()
    ClientHistogram("sizes", "Sizes.", registry=registry).observe(3)
    text = generate_latest(registry).decode()
    assert merge([text]) == text


def test_labels_are_added_where_they_are_missing():
    replica = (("application", "app"), ("replica", "r"))
    text = 'a 1\nb{x="1"} 2 1700000000\nc{replica="own"} 3\nd{my_replica="1"} 4\ne{} 5\nf{x="y",application="z",} 6\n'
    assert [labels for _, labels, _ in samples_of(with_labels(text, replica))] == [
        {"application": "app", "replica": "r"},
        {"x": "1", "application": "app", "replica": "r"},
        {"replica": "own", "application": "app"},
        {"my_replica": "1", "application": "app", "replica": "r"},
        {"application": "app", "replica": "r"},
        {"x": "y", "application": "z", "replica": "r"},
    ]
    assert 'e{application="app",replica="r"} 5' in with_labels(text, replica)
    assert 'b{x="1",application="app",replica="r"} 2 1700000000' in with_labels(text, replica)


def test_a_value_is_not_taken_for_a_label():
    text = text_of(gauge_text("g", "G.", {(("x", ODD),): 1.0}))
    assert samples_of(with_labels(text, (("replica", "r"),))) == [("ray_g", {"x": ODD, "replica": "r"}, 1.0)]
