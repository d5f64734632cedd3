"""What `DeploymentHandle.options` refuses."""

import pytest

from swerve.handle import DeploymentHandle


def test_an_option_that_no_header_holds_is_refused():
    with pytest.raises(ValueError, match="multiplexed_model_id must have at most 2048 characters, got 3000"):
        DeploymentHandle("deployment", "app").options(multiplexed_model_id="x" * 3000)
