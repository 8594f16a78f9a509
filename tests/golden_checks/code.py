"""Checkers of objectives for text: span corruption, supervised contrast, DupMAE and RetroMAE."""

import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call
from torch.nn.functional import normalize
from zoo.modalities.contracts import Batch, Tokens
from zoo.modalities.packing import Packed
from zoo.modalities.vocabulary import VocabularyEncoder
from zoo.objectives.contrastive_losses import supervised_contrastive
from zoo.objectives.dupmae import DupMAE, DupMAEConfig
from zoo.objectives.spans import corrupt_spans, fitting_length, noise_mask, span_counts


def files(fixture, name):
    return load_file(fixture.path.parent / fixture.sidecar["files"][name])


def t5_span_corruption(fixture):
    sidecar = fixture.sidecar
    for case in sidecar["cases"]:
        ids, mask = torch.tensor(case["ids"]), torch.tensor(case["mask"]) > 0
        last_ids = range(sidecar["vocab_size"] - 1, -1, -1)
        got = corrupt_spans(ids, mask, sentinels=last_ids, eos_id=sidecar["eos_id"])
        assert [part.tolist() for part in got] == [case["inputs"], case["targets"]]
    generator = torch.Generator().manual_seed(sidecar["seed"])
    for case in sidecar["mask_counts"]:
        how = case["length"], case["noise_density"], case["mean_span"]
        assert span_counts(*how) == (case["noise_tokens"], case["spans"])
        mask = noise_mask(*how, generator)
        starts = int((mask[1:] & ~mask[:-1]).sum()) + int(mask[0])
        assert (int(mask.sum()), starts) == (case["noise_tokens"], case["spans"])
        assert (bool(mask[0]), bool(mask[-1])) == (case["first_is_noise"], case["last_is_noise"])
    for case in sidecar["length_rule"]:
        how = case["inputs_length"], case["noise_density"], case["mean_span"]
        assert fitting_length(*how) == (case["tokens_length"], case["targets_length"])


def supcon(fixture):
    """The standard loss at both scales; upstream's deviating value must not come out."""
    io, sidecar, checked = files(fixture, "io"), fixture.sidecar, 0
    features, labels = io["features"], io["labels"]
    labels = labels.repeat_interleave(features.shape[1])
    vectors = normalize(features.flatten(0, 1), dim=-1)
    for name, want in sidecar.items():
        if name.startswith("reference_supcon_scale_"):
            words = name.removeprefix("reference_supcon_scale_").replace("p", ".").split("_over_")
            scale = torch.tensor(float(words[0]) / float(words[-1] if len(words) > 1 else 1))
            got = float(supervised_contrastive(vectors, labels, scale))
            assert got == pytest.approx(
                want, abs=sidecar["tolerance"]["atol"], rel=sidecar["tolerance"]["rtol"]
            )
            assert got != pytest.approx(sidecar["upstream_supcon"], rel=1e-3)
            checked += 1
    assert checked


class Bert(VocabularyEncoder):
    """The fixture's encoder: learned positions and post-norm blocks, padded inside."""

    modality = "code"

    def __init__(self, config):
        super().__init__()
        self.dim, self.vocab_size = config["hidden_size"], config["vocab_size"]
        self.eps, self.mask_id = config["layer_norm_eps"], 4
        self.ordinary = range(self.mask_id + 1, self.vocab_size)
        self.embedding = torch.nn.Embedding(self.vocab_size, self.dim)
        self.places = torch.nn.Parameter(torch.empty(config["max_position_embeddings"], self.dim))
        self.kind = torch.nn.Parameter(torch.empty(self.dim))
        self.norm = torch.nn.LayerNorm(self.dim, eps=self.eps)
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(
                self.dim,
                config["num_attention_heads"],
                config["intermediate_size"],
                dropout=0.0,
                activation="gelu",
                layer_norm_eps=self.eps,
                batch_first=True,
            )
            for _ in range(config["num_hidden_layers"])
        )

    def tokenize(self, batch: Batch) -> Tokens:
        packed = Packed(batch["lengths"])
        x = self.embedding(batch["ids"]) + self.places[packed.positions] + self.kind
        return Tokens(x=self.norm(x).unsqueeze(0), lengths=batch["lengths"])

    def encode(self, tokens: Tokens) -> Tokens:
        texts = []
        for x in tokens.x.split(tokens.lengths.tolist(), dim=1):
            for layer in self.layers:
                x = layer(x)
            texts.append(x)
        return Tokens(x=torch.cat(texts, 1), lengths=tokens.lengths)

    def pool(self, tokens: Tokens):
        raise NotImplementedError


def layer_names(theirs, ours):
    """BERT's names of a layer's tensors -> ours; query, key and value are handled apart."""
    renamed = {
        "attention.output.dense": ours[0],
        "attention.output.LayerNorm": ours[1],
        "intermediate.dense": ours[2],
        "output.dense": ours[3],
        "output.LayerNorm": ours[4],
    }
    return {f"{theirs}.{old}.{end}": (new, end) for old, new in renamed.items() for end in ENDS}


ENDS = ("weight", "bias")
TORCH = ("self_attn.out_proj", "norm1", "linear1", "linear2", "norm2")
OURS = ("proj", "norm1", "mlp.fc1", "mlp.fc2", "norm2")


def pair_state(w, config, *, normed):
    """The parameters of encoder and objective, as functions of the fixture's tensors."""
    bert, head = "lm.bert.embeddings", "lm.cls.predictions"
    encoder = {
        "embedding.weight": w[f"{bert}.word_embeddings.weight"],
        "places": w[f"{bert}.position_embeddings.weight"],
        "kind": w[f"{bert}.token_type_embeddings.weight"][0],
    }
    for end in ENDS:
        encoder[f"norm.{end}"] = w[f"{bert}.LayerNorm.{end}"]
    for i in range(config["num_hidden_layers"]):
        start = f"lm.bert.encoder.layer.{i}"
        parts = [f"{start}.attention.self.{name}" for name in ("query", "key", "value")]
        for end in ENDS:
            name = f"layers.{i}.self_attn.in_proj_{end}"
            encoder[name] = torch.cat([w[f"{part}.{end}"] for part in parts])
        for old, (new, end) in layer_names(start, TORCH).items():
            encoder[f"layers.{i}.{new}.{end}"] = w[old]
    position = w[f"{bert}.position_embeddings.weight"]
    if normed:  # the query's embedding block adds the token type too
        position = position + w[f"{bert}.token_type_embeddings.weight"][0]
    objective = {"position.weight": position, "head.bias": w[f"{head}.bias"]}
    for end in ENDS:
        objective[f"head.dense.{end}"] = w[f"{head}.transform.dense.{end}"]
        objective[f"head.norm.{end}"] = w[f"{head}.transform.LayerNorm.{end}"]
        if normed:
            objective[f"query_norm.{end}"] = w[f"{bert}.LayerNorm.{end}"]
        for new, old in (("q", "query"), ("k", "key"), ("v", "value")):
            objective[f"decoder.{new}.{end}"] = w[f"c_head.attention.self.{old}.{end}"]
    for old, (new, end) in layer_names("c_head", OURS).items():
        objective[f"decoder.{new}.{end}"] = w[old]
    return {f"0.{k}": v for k, v in encoder.items()} | {f"1.{k}": v for k, v in objective.items()}


class Pair(torch.nn.Sequential):
    """Encoder and objective, to be called with the parameters of `pair_state`."""

    def forward(self, batch):
        return self[1](self[0], batch)


def packed_batch(io, lengths):
    """The fixture's padded arrays as a batch of ours."""
    real = io["encoder_attention_mask"] > 0
    labels = io["encoder_labels"][real]
    shown = io["decoder_attention_mask"] > 0
    return {
        "ids": io["encoder_input_ids"][real],
        "lengths": torch.tensor(lengths),
        "target_index": (labels >= 0).nonzero().flatten(),
        "target_ids": labels[labels >= 0],
        "clean_ids": io["decoder_input_ids"][real],
        "visible": torch.cat([shown[i, :n, :n].flatten() for i, n in enumerate(lengths)]),
    }


def dupmae(fixture):
    """The loss, its parts, and the norm of every gradient."""
    config, sidecar, io = fixture.config, fixture.sidecar, files(fixture, "io")
    tolerance, components = sidecar["tolerance"], sidecar["components"]
    is_dup = "bow" in components
    stored = files(fixture, "weights")
    w = {name: stored[name].clone().requires_grad_() for name in sidecar["grad_norms"]}
    encoder = Bert(config)
    options = DupMAEConfig(
        norm_eps=config["layer_norm_eps"],
        decoder_heads=config["num_attention_heads"],
        decoder_hidden=config["intermediate_size"],
        max_length=config["max_position_embeddings"],
        key_positions=False,
        query_norm=is_dup,
        bag_weight=components.get("bow_weight", 0.0),
    )
    pair = Pair(encoder, DupMAE(options, encoder))
    state, batch = pair_state(w, config, normed=is_dup), packed_batch(io, sidecar["lengths"])
    losses = functional_call(pair, state, (batch,))
    assert losses.total.item() == pytest.approx(sidecar["loss"], abs=tolerance["loss_atol"])
    names = {"encoder_mlm": "encoder", "decoder_mlm": "decoder", "bow": "bag"}
    for theirs in components.keys() & names.keys():
        got = losses.parts[names[theirs]].item()
        assert got == pytest.approx(components[theirs], abs=tolerance["loss_atol"])
    losses.total.backward()
    for name, want in sidecar["grad_norms"].items():
        got = float(w[name].grad.norm())
        # The gradient of a key's bias is zero but for rounding.
        assert got == pytest.approx(want, rel=tolerance["grad_norm_rtol"], abs=1e-6), name


CHECKS = {
    "t5_span_corruption": t5_span_corruption,
    "supcon": supcon,
    "dupmae": dupmae,
    "retromae": dupmae,
}
