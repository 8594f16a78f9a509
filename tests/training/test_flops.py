"""FLOPs: the counter against the formula, and without a trace in the run."""

import pytest
import torch
from zoo.objectives.mae import MAE
from zoo.registry.build import build_objective

import zoo
from zoo.training.flops import ForwardFlops, peak_flops, train_flops


def pair(**options):
    torch.manual_seed(0)
    encoder = zoo.create("digits-mae", drop_path=0.5, **options)
    task = {"name": "mae", "mask_ratio": 0.5, "decoder_dim": 32, "decoder_depth": 2}
    return encoder, build_objective(task | {"decoder_heads": 4}, encoder)


def batch_for(encoder, objective, samples):
    config = encoder.config
    size = (samples, config.in_chans, config.img_size, config.img_size)
    image = torch.zeros(size, dtype=torch.uint8)
    return {"image": image, "noise": torch.rand(samples, objective.num_tokens)}


def by_hand(encoder, objective):
    """FLOPs a sample: 24 n d^2 + 4 n^2 d a layer, and the projections around the layers."""

    def layer(n, d):
        return 24 * n * d * d + 4 * n * n * d

    tokens, seen = objective.num_tokens, objective.num_visible
    values, width = encoder.target_dim, encoder.dim
    decoder = objective.config.decoder_dim
    return (
        2 * tokens * values * width
        + encoder.config.depth * layer(seen + 1, width)
        + 2 * (seen + 1) * width * decoder
        + objective.config.decoder_depth * layer(tokens + 1, decoder)
        + 2 * (tokens - seen) * decoder * values
    )


@pytest.mark.parametrize("size", [{"dim": 32, "depth": 3, "heads": 4}, {"dim": 48, "depth": 1}])
def test_counted_equals_the_formula(size):
    """Exactly: both count matrix products and attention, and nothing else."""
    encoder, objective = pair(**size)
    batch = batch_for(encoder, objective, 3)
    assert ForwardFlops(encoder, objective)(batch) == 3 * by_hand(encoder, objective)
    assert train_flops(2.0) == 6.0


@pytest.mark.parametrize(("name", "flops"), [("mae-base", 19.6e9), ("mae-large", 41.5e9)])
def test_published_sizes(name, flops):
    """Specification `training`, 10.1; the pixel head here leaves out visible patches, 0.2 %."""
    with torch.device("meta"):
        encoder = zoo.create(name)
        objective = build_objective({"name": "mae"}, encoder)
        batch = batch_for(encoder, objective, 1)
    assert ForwardFlops(encoder, objective)(batch) == pytest.approx(flops, rel=4e-3)


def test_packed_sequences_do_not_see_each_other():
    encoder = zoo.create("stdlib-mlm", dim=24, depth=2, vocab_size=320)
    objective = build_objective({"name": "masked_lm"}, encoder)

    def flops(*lengths):
        ids, index = torch.full((sum(lengths),), 9), torch.arange(4)
        batch = {"ids": ids, "target_index": index, "target_ids": index}
        return ForwardFlops(encoder, objective)(batch | {"lengths": torch.tensor(lengths)})

    assert flops(30) - flops(10, 20) == 2 * 4 * 24 * (30**2 - 10**2 - 20**2)


def test_an_objective_that_looks_at_values_is_not_counted(caplog):
    class Looking(MAE):
        def forward(self, encoder, batch):
            assert batch["noise"].max().item() < 1
            return super().forward(encoder, batch)

    encoder, objective = pair()
    objective = Looking(objective.config, encoder)
    assert ForwardFlops(encoder, objective)(batch_for(encoder, objective, 1)) is None
    assert "there is no MFU" in caplog.text


def trained(*, counted):
    """Weights after three steps with random depth."""
    encoder, objective = pair(dim=32, depth=2)
    modules = torch.nn.ModuleList([encoder, objective]).train()
    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-2)
    for step in range(3):
        batch = batch_for(encoder, objective, 4)
        if counted and step == 0:
            assert ForwardFlops(encoder, objective)(batch)
        objective(encoder, batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    return modules.state_dict()


def test_training_is_the_same_to_the_bit():
    plain, counted = trained(counted=False), trained(counted=True)
    assert all(torch.equal(value, counted[name]) for name, value in plain.items())


def test_counting_changes_nothing():
    """Generators, modes, weights, buffers and the batch are as before: training stays bit-exact."""
    encoder, objective = pair(dim=32, depth=2)
    encoder.train()
    encoder.blocks[0].eval()
    batch = batch_for(encoder, objective, 2)
    before = [part.training for part in encoder.modules()]
    generator = torch.get_rng_state()
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert ForwardFlops(encoder, objective)(batch) > 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert [part.training for part in encoder.modules()] == before
    assert all(torch.equal(state[name], value) for name, value in encoder.state_dict().items())
    assert batch.keys() == {"image", "noise"}
    assert all(p.grad is None for p in encoder.parameters())


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA GeForce RTX 3060", None),
    ],
)
def test_peaks(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == peak


def test_no_peak_for_a_cpu():
    assert peak_flops(torch.device("cpu")) is None
