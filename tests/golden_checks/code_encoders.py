"""Checkers of the text encoders: MosaicBERT, ModernBERT, T5 as CodeT5+ and CodeReviewer use it."""

import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, linear
from zoo.hub.codet5p import CODET5P
from zoo.hub.convert import convert, detect
from zoo.hub.modernbert import HEAD, MODERNBERT
from zoo.hub.mosaicbert import MOSAICBERT
from zoo.hub.names import rename_back
from zoo.modalities.attention import alibi_slopes
from zoo.modalities.code.encoder import CodeEncoder, CodeEncoderConfig
from zoo.modalities.code.preprocess import CodePreprocessConfig
from zoo.modalities.code.relative import buckets_of
from zoo.modalities.code.t5 import T5, T5Config, T5Encoder
from zoo.modalities.contracts import Features
from zoo.modalities.seeing import Seeing
from zoo.objectives.masked_lm import MaskedLM, MaskedLMConfig

import zoo


class Files:
    """A fixture's weights and numbers, compared with its own tolerances."""

    def __init__(self, fixture):
        self.facts, folder = fixture.sidecar, fixture.path.parent
        self.weights = load_file(folder / self.facts["files"]["weights"])
        self.io = load_file(folder / self.facts["files"]["io"])
        self.config = fixture.config

    def close(self, got, want, atol="atol"):
        want = self.io[want] if isinstance(want, str) else torch.as_tensor(want)
        want = want.reshape(got.shape) if want.numel() == 1 else want
        tolerance = self.facts["tolerance"]
        limits = {"atol": tolerance.get(atol, tolerance["atol"]), "rtol": tolerance["rtol"]}
        torch.testing.assert_close(got.detach(), want.to(got.dtype), **limits)

    def same_gradients(self, pairs, encoder, objective=None, norms="grad_norms"):
        """Norms of all gradients, under the reference's names."""
        ours = [
            {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
            for module in (encoder, objective or torch.nn.Module())
        ]
        found = {name: float(g.norm()) for name, g in rename_back(*ours, pairs).items()}
        want = self.facts[norms]
        assert found.keys() == want.keys()
        for name, norm in want.items():
            relative = abs(found[name] - norm) / norm
            assert relative <= self.facts["tolerance"]["grad_norm_rtol"], (name, found[name], norm)


def masked_lm(files, config, pairs, *, head_bias):
    """The encoder and objective of a fixture with its weights, which name every tensor."""
    encoder = CodeEncoder(
        CodeEncoderConfig(
            vocab_size=files.config["vocab_size"],
            dim=files.config["hidden_size"],
            depth=files.config["num_hidden_layers"],
            heads=files.config["num_attention_heads"],
            hidden=files.config["intermediate_size"],
            **config,
        ),
        CodePreprocessConfig(),
    ).eval()
    task = MaskedLMConfig(head_bias=head_bias, norm_eps=encoder.config.norm_eps)
    objective = MaskedLM(task, encoder).eval()
    found = convert(files.weights)
    encoder.load_state_dict(found.encoder)
    if found.objective:
        objective.load_state_dict(found.objective)
        back = rename_back(found.encoder, found.objective, pairs)
        assert back.keys() | found.extra.keys() == files.weights.keys()
        assert all(torch.equal(back[name], files.weights[name]) for name in back)
    return encoder, objective


def batches(files):
    """The fixture's batch packed and padded, and where its real tokens are."""
    io = files.io
    valid = io["attention_mask"].bool()
    padded = {"ids": io["input_ids"], "valid": valid}
    packed = {"ids": io["input_ids"][valid], "lengths": valid.sum(dim=1)}
    if "token_type_ids" in io:
        padded["types"], packed["types"] = io["token_type_ids"], io["token_type_ids"][valid]
    return packed, padded, valid


def same_states(files, encoder):
    packed, padded, valid = batches(files)
    close = files.close
    close(encoder(packed).tokens[0], files.io["last_hidden"][valid])
    close(encoder(padded).tokens[valid], files.io["last_hidden"][valid])
    return packed, padded, valid


def layers(encoder, batch):
    """Packed states after the embedding and after every block."""
    tokens = encoder.tokenize(batch)
    found = [tokens.x[0]]
    hooks = [
        block.register_forward_hook(lambda _m, _i, out: found.append(out[0]))
        for block in encoder.blocks
    ]
    encoder.encode(tokens)
    for hook in hooks:
        hook.remove()
    return found


def same_loss(files, encoder, objective, pairs, logits):
    """Logits of every token, then loss and gradients of the labelled ones, packed and padded."""
    packed, padded, valid = batches(files)
    everything = torch.arange(int(valid.sum()))
    found = objective.predict(encoder, packed | {"target_index": everything})
    files.close(found, files.io[logits][valid])
    labels = files.io["labels"]
    for batch, targets in ((padded, labels.flatten()), (packed, labels[valid])):
        index = (targets > 0).nonzero().flatten()
        batch = batch | {"target_index": index, "target_ids": targets[index]}
        encoder.zero_grad()
        objective.zero_grad()
        loss = objective(encoder, batch).total
        files.close(loss, files.io["loss"][0], atol="loss_atol")
        loss.backward()
        files.same_gradients(pairs, encoder, objective)


MOSAIC = {
    "position": "alibi",
    "norm_first": False,
    "bias": True,
}


def mosaic_config(files):
    eps = files.config.get("layer_norm_eps", 1e-12)
    return MOSAIC | {"norm_eps": eps, "token_types": files.config["type_vocab_size"]}


def mosaicbert_mlm(fixture):
    files = Files(fixture)
    assert detect(files.weights) == "mosaicbert"
    encoder, objective = masked_lm(files, mosaic_config(files), MOSAICBERT, head_bias=True)
    packed, _, valid = same_states(files, encoder)
    embedded, *after = layers(encoder, packed)
    files.close(embedded, files.io["embeddings"][valid])
    for number, state in enumerate(after):
        files.close(state, f"layer_{number}_unpadded")
    longest = files.io["alibi"].shape[-1]
    seeing = Seeing(slopes=alibi_slopes(files.config["num_attention_heads"]))
    files.close(seeing.mask(longest, embedded)[0], "alibi")
    same_loss(files, encoder, objective, MOSAICBERT, "logits_dense")


def mosaicbert_cls(fixture):
    """The classifier is no part of the encoder: its tensors are applied here."""
    files = Files(fixture)
    encoder, _ = masked_lm(files, mosaic_config(files), MOSAICBERT, head_bias=True)
    packed, _, _ = same_states(files, encoder)
    starts = packed["lengths"].cumsum(0) - packed["lengths"]
    first, weights = encoder.states(packed, starts), files.weights
    pooled = linear(first, weights["bert.pooler.dense.weight"], weights["bert.pooler.dense.bias"])
    files.close(pooled.tanh(), "pooled")
    logits = linear(pooled.tanh(), weights["classifier.weight"], weights["classifier.bias"])
    files.close(logits, "logits")
    files.close(cross_entropy(logits, files.io["labels"]), files.facts["loss"])


def modernbert_mlm(fixture):
    files = Files(fixture)
    assert detect(files.weights) == "modernbert"
    config = {
        "rotary_base": files.config["global_rope_theta"],
        "local_rotary_base": files.config["local_rope_theta"],
        "window": files.config["local_attention"] // 2,
        "global_every": files.config["global_attn_every_n_layers"],
        "norm_eps": files.config["norm_eps"],
    }
    pairs = tuple((f"model.{theirs}", ours) for theirs, ours in MODERNBERT) + HEAD
    encoder, objective = masked_lm(files, config, pairs, head_bias=False)
    packed, _, valid = same_states(files, encoder)
    for number, state in enumerate(layers(encoder, packed)):
        files.close(state, files.io[f"hidden_{number}"][valid])
    same_loss(files, encoder, objective, pairs, "logits")


def t5(files, kind):
    config = files.config
    encoder = kind(
        T5Config(
            vocab_size=config["vocab_size"],
            dim=config["d_model"],
            depth=config["num_layers"],
            decoder_depth=config.get("num_decoder_layers", 1),
            heads=config["num_heads"],
            head_dim=config["d_kv"],
            hidden=config["d_ff"],
            embed_dim=config.get("embed_dim"),
        ),
        CodePreprocessConfig(),
    ).eval()
    assert detect(files.weights) == "codet5p"
    found = convert(files.weights)
    encoder.load_state_dict(found.encoder)
    back = rename_back(found.encoder, found.objective, CODET5P)
    assert back.keys() | found.extra.keys() == files.weights.keys()
    assert all(torch.equal(back[name], files.weights[name]) for name in back)
    return encoder


def codet5p_embedding(fixture):
    files = Files(fixture)
    encoder = t5(files, T5Encoder)
    config, distance = encoder.config, files.io["rel_positions"]
    for name, causal in (("bidirectional", False), ("causal", True)):
        found = buckets_of(distance, config.buckets, config.max_distance, causal=causal)
        assert torch.equal(found, files.io[f"rel_bucket_{name}"])
    packed, padded, valid = batches(files)
    found = encoder(packed)
    files.close(found.tokens[0], files.io["last_hidden"][valid])
    files.close(encoder(padded).tokens[0], files.io["last_hidden"][valid])
    files.close(found.pooled, "embedding", atol="embedding_atol")
    text, code = found.pooled.chunk(2)
    scores, labels = text @ code.T / 0.07, torch.arange(len(text))
    loss = (cross_entropy(scores, labels) + cross_entropy(scores.T, labels)) / 2
    files.close(loss, "infonce_loss")
    loss.backward()
    files.same_gradients(CODET5P, encoder)


def codet5p_bimodal(fixture):
    """Encoder, decoder, and both heads: every text's decoder reads every code."""
    files = Files(fixture)
    model, io = t5(files, T5), files.io
    text_mask, code_mask = io["text_mask"].bool(), io["code_mask"].bool()
    texts = {"ids": io["text_ids"][text_mask], "lengths": text_mask.sum(dim=1)}
    codes = {"ids": io["code_ids"][code_mask], "lengths": code_mask.sum(dim=1)}
    text, code = model(texts), model(codes)
    files.close(text.pooled, "text_emb")
    files.close(code.pooled, "code_emb")

    head = convert(files.weights).objective
    reads = {"decoder_ids": io["code_ids_enc"][code_mask], "decoder_lengths": codes["lengths"]}
    for row, states in enumerate(text.tokens[0].split(texts["lengths"].tolist())):
        alike = Features(
            tokens=states.repeat(len(code_mask), 1).unsqueeze(0),
            pooled=text.pooled,
            lengths=texts["lengths"][row].repeat(len(code_mask)),
        )
        hidden = model.decode(alike, reads)[0]
        files.close(hidden, io["decoder_hidden"][row][code_mask])
        last = hidden[codes["lengths"].cumsum(0) - 1]
        logits = linear(last, head["itm_head.weight"], head["itm_head.bias"])
        files.close(logits, io["itm_logits"][row])
        files.close(logits[:, 1] + code.pooled @ text.pooled[row], io["rerank_score"][row])

    labels = io["seq2seq_labels"]
    written = labels >= 0
    shifted = torch.cat([torch.full((len(labels), 1), model.decoder_start_id), labels], dim=1)
    reads = {"decoder_ids": shifted[:, :-1][written], "decoder_lengths": written.sum(dim=1)}
    logits = model.logits(model.decode(code, reads))[0]
    files.close(logits, io["seq2seq_logits"][written])
    loss = cross_entropy(logits, labels[written])
    files.close(loss, "seq2seq_loss")
    loss.backward()
    files.same_gradients(CODET5P, model, norms="grad_norms_seq2seq")


def codereviewer(fixture):
    """The joint loss: of the decoder, and of the encoder's states as logits of line labels."""
    files = Files(fixture)
    model, pad = t5(files, T5), files.facts["special_ids"]["pad_id"]
    tasks = list(files.facts["per_task"])
    source, labels, target = (
        torch.stack([files.io[f"{task}.{what}"] for task in tasks])
        for what in ("source_ids", "source_labels", "target_ids")
    )
    valid, written = source != pad, target != pad
    features = model({"ids": source, "valid": valid})
    files.close(features.tokens[0], files.io["encoder_hidden"][valid])
    shifted = torch.cat([torch.full((len(target), 1), model.decoder_start_id), target], dim=1)
    read = written.clone()
    read[:, 0] = True  # a task without a target gives the decoder something to read
    reads = {"decoder_ids": shifted[:, :-1][read], "decoder_lengths": read.sum(dim=1)}
    logits = model.logits(model.decode(features, reads))[0][written[read]]
    tags = linear(features.tokens[0], model.embedding.weight)
    loss = cross_entropy(logits, target[written])
    loss = loss + cross_entropy(tags, labels[valid], ignore_index=-100)
    files.close(loss, "batch_loss")
    loss.backward()
    files.same_gradients(CODET5P, model)


def checkpoint_layouts(fixture):
    """Every key of the published checkpoints has a place, and the encoder's have no other."""
    for model, facts in fixture.sidecar["models"].items():
        with torch.device("meta"):
            encoder = zoo.create(model.lower())
        file = {key: torch.zeros(()).expand(shape) for key, shape in facts["keys"].items()}
        assert len(file) == facts["n_keys"]
        found = convert(file, detect(file))
        wanted = {name: value.shape for name, value in encoder.state_dict().items()}
        assert {name: value.shape for name, value in found.encoder.items()} == wanted
        assert all("tied" in reason for reason in found.extra.values())
        total = sum(value.numel() for value in (*found.encoder.values(), *found.objective.values()))
        assert total == facts["parameters"]


CHECKS = {
    "mosaicbert_mlm": mosaicbert_mlm,
    "mosaicbert_cls": mosaicbert_cls,
    "modernbert_mlm": modernbert_mlm,
    "codet5p_embedding": codet5p_embedding,
    "codet5p_bimodal": codet5p_bimodal,
    "codereviewer": codereviewer,
    "checkpoint_layouts": checkpoint_layouts,
}
