"""The contract, on the machine that SHRINKBOARD_SSH_HOST names."""

import os

import pytest
from ssh_target import SshOnnxRuntime

import shrinkboard as sb

QUICK = sb.Effort(goal=0.05, budget=1.0, pairs=30)


@pytest.mark.skipif(
    "SHRINKBOARD_SSH_HOST" not in os.environ, reason="needs SHRINKBOARD_SSH_HOST, a machine to measure on"
)
def test_the_contract() -> None:
    sb.check_cost_model(SshOnnxRuntime(QUICK))
