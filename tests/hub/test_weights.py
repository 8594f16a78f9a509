"""Foreign files: whatever the tensors are wrapped in."""

import pytest
import torch
from zoo.hub.weights import read_state

from zoo.errors import WeightsError

STATE = {"norm.weight": torch.ones(3)}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"model": STATE, "epoch": 3},
        {"state_dict": STATE, "optimizer": {"lr": 0.1}},
        {"network_weights": STATE, "init_args": {}},
        {"net": STATE},
        {"student": STATE, "teacher": STATE},
        {"state_dict": {"student": STATE}},
    ],
)
def test_wrappers_come_off(content, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    state = read_state(path)
    assert state.keys() == STATE.keys()
    assert torch.equal(state["norm.weight"], STATE["norm.weight"])


def test_other_things_than_tensors_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"teacher": STATE}, path)
    with pytest.raises(WeightsError, match="holds more than a state dict of tensors"):
        read_state(path)
