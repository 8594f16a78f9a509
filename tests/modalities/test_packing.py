import torch
from zoo.modalities.packing import Packed


def test_descriptions_of_the_same_division():
    packed = Packed(torch.tensor([2, 3]))
    assert packed.lengths == [2, 3]
    assert packed.total == 5
    assert packed.longest == 3
    assert packed.cu_seqlens.tolist() == [0, 2, 5]
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.positions.tolist() == [0, 1, 0, 1, 2]
    assert packed.sequence_ids.tolist() == [0, 0, 1, 1, 1]


def test_mean_over_each_sequence():
    x = torch.arange(10.0).view(1, 5, 2)
    want = torch.stack([x[0, :2].mean(0), x[0, 2:].mean(0)])
    torch.testing.assert_close(Packed([2, 3]).pool_mean(x), want)
    half = Packed([2, 3]).pool_mean(x.bfloat16())
    assert half.dtype == torch.bfloat16
