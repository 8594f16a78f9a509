"""Every path of attention against softmax written out."""

import math

import pytest
import torch
from zoo.modalities.attention import alibi_slopes, attention, rotary, rotate
from zoo.modalities.flex import packed_flex
from zoo.modalities.packing import Packed
from zoo.modalities.seeing import Seeing

LENGTHS = [[5], [3, 1, 9, 2], [17, 16, 15, 4, 4, 1], [1, 1, 1]]


def plain(q, k, v, seen=None, slopes=None):
    """(B, N, H, E) by the formula, in float64; `seen` broadcasts to (B, H, N, N)."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if slopes is not None:
        n = torch.arange(q.shape[-2])
        scores = scores - slopes.double().view(-1, 1, 1) * (n[:, None] - n[None, :]).abs()
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2)


def qkv(*shape, heads=3, width=8, grad=False):
    return [torch.randn(*shape, heads, width, requires_grad=grad) for _ in range(3)]


def close(got, want):
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("n", [1, 7, 16])
def test_dense(n, alibi, causal):
    q, k, v = qkv(2, n)
    slopes = alibi_slopes(3) if alibi else None
    past = torch.ones(n, n, dtype=torch.bool).tril() if causal else None
    close(attention(q, k, v, slopes=slopes, causal=causal), plain(q, k, v, past, slopes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [7, 600])  # on either side of what counts as short
def test_half_precision(n, dtype):
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in qkv(2, n))
    got, want = attention(q, k, v), plain(q, k, v)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=2e-2, atol=2e-2)
    weight = torch.randn_like(want)
    exact = torch.autograd.grad(want, (q, k, v), weight, retain_graph=True)
    for ours, theirs in zip(
        torch.autograd.grad(got, (q, k, v), weight.to(dtype)), exact, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("alibi", [False, True])
def test_padded(alibi):
    q, k, v = qkv(3, 9)
    valid = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]
    slopes = alibi_slopes(3) if alibi else None
    got = attention(q, k, v, valid=valid, slopes=slopes)
    close(got[valid], plain(q, k, v, valid[:, None, None], slopes)[valid])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_packed_equals_one_by_one_with_gradients(lengths, alibi, causal):
    packed = Packed(lengths)
    q, k, v = qkv(1, packed.total, grad=True)
    slopes = alibi_slopes(3) if alibi else None
    got = attention(q, k, v, packed=packed, slopes=slopes, causal=causal)
    weight = torch.randn_like(got)
    found = torch.autograd.grad((got * weight).sum(), (q, k, v))
    parts, start = [], 0
    for n in lengths:
        piece = [x[:, start : start + n] for x in (q, k, v)]
        past = torch.ones(n, n, dtype=torch.bool).tril() if causal else None
        parts.append(plain(*piece, past, slopes))
        start += n
    want = torch.cat(parts, dim=1)
    close(got, want)
    expected = torch.autograd.grad((want * weight).sum(), (q, k, v))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alibi", [False, True])
def test_no_leakage_between_sequences(alibi):
    """Another sequence may change at will: the others stay bit-identical."""
    packed = Packed([6, 11, 3])
    q, k, v = qkv(1, packed.total)
    slopes = alibi_slopes(3) if alibi else None
    before = attention(q, k, v, packed=packed, slopes=slopes)
    with torch.no_grad():
        for x in (q, k, v):
            x[:, 6:17] = torch.randn_like(x[:, 6:17]) * 100
    after = attention(q, k, v, packed=packed, slopes=slopes)
    assert torch.equal(before[:, :6], after[:, :6])
    assert torch.equal(before[:, 17:], after[:, 17:])
    assert not torch.equal(before[:, 6:17], after[:, 6:17])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("window", [1, 4, 40])
def test_window(window, alibi, causal):
    lengths = [3, 1, 19, 2]
    packed, offset = Packed(lengths), torch.arange(25)[:, None] - torch.arange(25)
    q, k, v = qkv(1, packed.total)
    slopes = alibi_slopes(3) if alibi else None
    options = {"slopes": slopes, "window": window, "causal": causal}
    seen = (offset.abs() <= window) & ((offset >= 0) | (not causal))
    close(attention(q, k, v, **options), plain(q, k, v, seen, slopes))
    together = packed.sequence_ids[:, None] == packed.sequence_ids
    close(attention(q, k, v, packed=packed, **options), plain(q, k, v, seen & together, slopes))
    valid = torch.arange(25) < 20
    close(
        attention(q, k, v, valid=valid[None], **options)[:, valid],
        plain(q, k, v, seen & valid, slopes)[:, valid],
    )


@pytest.mark.filterwarnings("ignore::UserWarning")  # it would rather be compiled
@pytest.mark.parametrize("options", [{}, {"window": 4}, {"causal": True}])
def test_flex_agrees(options):
    """What CUDA runs compiled; the same function runs anywhere, slowly."""
    packed = Packed([3, 1, 19, 2])
    q, k, v = qkv(1, packed.total, width=16)
    slopes = alibi_slopes(3)
    got = packed_flex(q, k, v, packed, Seeing(slopes=slopes, **options))
    torch.testing.assert_close(got, attention(q, k, v, packed=packed, slopes=slopes, **options))


def test_packed_and_padding_exclude_each_other():
    q, k, v = qkv(1, 4)
    with pytest.raises(ValueError, match="not both"):
        attention(q, k, v, packed=Packed([4]), valid=torch.ones(1, 4, dtype=torch.bool))


@pytest.mark.parametrize("lengths", [[], [3, 0], [-1]])
def test_empty_sequences_are_refused(lengths):
    with pytest.raises(ValueError, match="at least 1"):
        Packed(lengths)


def test_xformers_divides_a_packed_batch_as_we_do():
    """Its kernels need CUDA; its mask can be looked at anywhere."""
    pytest.importorskip("xformers.ops")
    packed = Packed([3, 1, 4])
    mask = packed.block_diagonal_mask.materialize((8, 8))
    same = packed.sequence_ids[:, None] == packed.sequence_ids[None, :]
    assert torch.equal(mask == 0, same)


@pytest.mark.parametrize(
    ("heads", "want"),
    [
        (8, [2.0**-i for i in range(1, 9)]),
        (12, [2.0**-i for i in range(1, 9)] + [2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5]),
        (6, [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]),
    ],
)
def test_alibi_slopes(heads, want):
    torch.testing.assert_close(alibi_slopes(heads), torch.tensor(want))


def test_rotary_depends_on_distance_only():
    q, k = torch.randn(8), torch.randn(8)

    def product(i, j):
        cos, sin = rotary(torch.tensor([i, j]), 8)
        a = rotate(q.view(1, 1, 8), (cos[:1], sin[:1]))
        b = rotate(k.view(1, 1, 8), (cos[1:], sin[1:]))
        return (a * b).sum()

    torch.testing.assert_close(product(3, 7), product(103, 107), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(product(0, 0), (q * k).sum())


def test_unknown_backend_is_refused(monkeypatch):
    from zoo.modalities import attention as module

    monkeypatch.setenv("ZOO_ATTENTION", "flash9")
    with pytest.raises(ValueError, match="choose auto, sdpa or xformers"):
        module._xformers(torch.zeros(1, dtype=torch.bfloat16))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", ["sdpa", "xformers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [32, 64, 80, 96, 128])
def test_cuda_backends_agree(width, dtype, backend, monkeypatch):
    monkeypatch.setenv("ZOO_ATTENTION", backend)
    packed = Packed([33, 7, 120], torch.device("cuda"))
    q, k, v = (torch.randn(1, 160, 4, width, device="cuda", dtype=dtype) for _ in range(3))
    same = packed.sequence_ids[:, None] == packed.sequence_ids[None, :]
    want = plain(*(x.cpu() for x in (q, k, v)), same.cpu())
    tolerance = {"rtol": 0, "atol": 2e-2 if dtype == torch.bfloat16 else 1e-4}
    got = attention(q, k, v, packed=packed).cpu().double()
    torch.testing.assert_close(got, want, **tolerance)
    dense = attention(q, k, v).cpu().double()
    torch.testing.assert_close(dense, plain(*(x.cpu() for x in (q, k, v))), **tolerance)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("window", [None, 8])
def test_cuda_agrees_with_alibi_and_windows(window, alibi):
    packed = Packed([33, 7, 120], torch.device("cuda"))
    q, k, v = (torch.randn(1, 160, 4, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    slopes = alibi_slopes(4).cuda() if alibi else None
    got = attention(q, k, v, packed=packed, slopes=slopes, window=window).cpu().double()
    offset = torch.arange(160)[:, None] - torch.arange(160)
    same = (packed.sequence_ids[:, None] == packed.sequence_ids[None, :]).cpu()
    seen = same if window is None else same & (offset.abs() <= window)
    want = plain(*(x.cpu() for x in (q, k, v)), seen, None if slopes is None else slopes.cpu())
    torch.testing.assert_close(got, want, rtol=0, atol=2e-2)
