"""The corpus of the fuzz targets holds; and so does what hypothesis makes of it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.make_corpus import seeds
from tests.fuzz.run import CORPUS
from tests.fuzz.targets import TARGETS

INPUTS = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_input_of_the_corpus_passes(path: Path):
    TARGETS[path.parent.name](path.read_bytes())


def test_the_corpus_has_the_seeds_that_its_script_makes():
    made = {CORPUS / target / name: data for target, inputs in seeds().items() for name, data in inputs.items()}
    assert {path: path.read_bytes() for path in made} == made


@pytest.mark.parametrize("target", TARGETS)
def test_variations_of_the_corpus_pass(target):
    inputs = [path.read_bytes() for path in INPUTS if path.parent.name == target]

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(inputs), st.lists(st.tuples(st.integers(0, 500), st.binary(max_size=4)), max_size=4))
    def check(data, changes):
        for at, new in changes:
            data = data[:at] + new + data[at + len(new) :]
        TARGETS[target](data)

    check()
