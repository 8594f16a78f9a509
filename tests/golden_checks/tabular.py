"""Checkers of tables, of the part `tabular`."""

import math
import warnings

import torch
from torch.nn.functional import cross_entropy, normalize
from zoo.modalities.contracts import Tokens
from zoo.modalities.tables import NUMBER, SPECIAL_VALUES
from zoo.modalities.tabular.encoder import UniTabE, UniTabEConfig
from zoo.modalities.tabular.ft_transformer import FTTransformer, FTTransformerConfig
from zoo.modalities.tabular.numbers import (
    Linear,
    Periodic,
    PiecewiseLinear,
    encode_piecewise,
    quantile_bins,
    tree_bins,
)
from zoo.modalities.tabular.preprocess import TYPES, TabularPreprocessConfig, digits
from zoo.modalities.tabular.read import read_table
from zoo.modalities.tabular.saint import SaintTrunk
from zoo.modalities.tabular.schema import FixedPreprocessConfig
from zoo.modalities.tabular.words import Words
from zoo.objectives.column_views import partition
from zoo.objectives.contrastive_losses import nt_xent
from zoo.objectives.scarf import corrupt
from zoo.objectives.unitabe import Decoder, spelling_loss


def close(fixture, got, want):
    want = fixture.tensors[want] if isinstance(want, str) else want
    tolerance = {name: fixture.sidecar["tol"][name] for name in ("rtol", "atol")}
    torch.testing.assert_close(got.detach().reshape(want.shape), want, **tolerance)


def numemb(fixture):
    config, tensors = fixture.config, fixture.tensors
    features, dim = config["n_features"], config["d_embedding"]
    if fixture.kind == "numemb_linear_relu":
        layer = Linear(features, dim, relu=True)
        state = {name: tensors[f"w.linear.{name}"] for name in ("weight", "bias")}
    else:
        layer = Periodic(
            features,
            dim,
            frequencies=config["n_frequencies"],
            relu=fixture.kind != "numemb_pl",
            shared=fixture.kind == "numemb_plr_lite",
        )
        weight, bias = tensors["w.linear.weight"], tensors["w.linear.bias"]
        if layer.shared:
            weight, bias = weight.T[None], bias[None]
        state = {"frequency": tensors["w.periodic.weight"], "weight": weight, "bias": bias}
    layer.load_state_dict(state)
    x = tensors["in.x"].requires_grad_()
    out = layer(x)
    close(fixture, out, "out.embedding")
    loss = out.square().mean()
    close(fixture, loss, "out.loss")
    loss.backward()
    close(fixture, x.grad, "out.grad_x")


def numemb_ple(fixture):
    config, tensors = fixture.config, fixture.tensors
    bins = [tensors[f"in.bins.{i}"] for i in range(config["n_features"])]
    x, y = tensors["in.X_train"], tensors["in.y_train"]
    if fixture.kind == "numemb_ple_quantile":
        made = quantile_bins(x, config["n_bins"])
    else:
        made = tree_bins(x, y, config["n_bins"], regression=True)
    for got, want in zip(made, bins, strict=True):
        close(fixture, got, want)
    close(fixture, torch.cat(encode_piecewise(tensors["in.x"], bins), dim=-1), "out.encoding")
    dim = config["d_embedding"]
    a, b = PiecewiseLinear(bins, dim), PiecewiseLinear(bins, dim, relu=False)
    a.load_state_dict({name: tensors[f"wA.linear.{name}"] for name in ("weight", "bias")})
    b.load_state_dict(
        {
            "weight": tensors["wB.linear.weight"],
            "linear.weight": tensors["wB.linear0.weight"],
            "linear.bias": tensors["wB.linear0.bias"],
        }
    )
    close(fixture, a(tensors["in.x"]), "out.embedding_A")
    close(fixture, b(tensors["in.x"]), "out.embedding_B")


_FT_NAMES = (
    ("cls_embedding.weight", "0.cells.cls_token"),
    ("cont_embeddings.", "0.cells.numbers."),
    ("cat_embeddings.embeddings.", "0.cells.embeddings."),
    ("cat_embeddings.bias", "0.cells.bias"),
    ("backbone.blocks.", "0.blocks."),
    ("backbone.output.normalization.", "0.norm."),
    ("backbone.output.linear.", "1."),
    (".attention_normalization.", ".norm1."),
    (".attention.W_out.", ".proj."),
    (".attention.W_", "."),
    (".ffn_normalization.", ".norm2."),
    (".ffn.linear", ".fc"),
)


def renamed(name, rules):
    for old, new in rules:
        name = name.replace(old, new)
    return name


def ft_transformer(fixture):
    config, tensors = fixture.config, fixture.tensors
    levels = config["cat_cardinalities"]
    sizes = FTTransformerConfig(
        numbers=config["n_cont_features"],
        levels=tuple(levels),
        dim=config["d_block"],
        depth=config["n_blocks"],
        heads=config["attention_n_heads"],
        dropout=0.0,
    )
    encoder = FTTransformer(sizes, FixedPreprocessConfig())
    head = torch.nn.Linear(config["d_block"], config["d_out"])
    model = torch.nn.ModuleList([encoder, head])
    given = {renamed(name, _FT_NAMES): value for name, value in fixture.group("w").items()}
    given["0.cells.special_tokens"] = (
        encoder.cells.special_tokens
    )  # of missing cells, which the package lacks
    model.load_state_dict(given)
    numbers, codes = tensors["in.x_cont"], tensors.get("in.x_cat")
    values = torch.full_like(numbers, NUMBER, dtype=torch.int64)
    if codes is not None:
        starts = torch.tensor([SPECIAL_VALUES, *levels[:-1]]).cumsum(0)
        values = torch.cat([values, codes + starts], dim=1)
        numbers = torch.nn.functional.pad(numbers, (0, len(levels)))
    tokens = encoder.cells(numbers, values)
    close(fixture, tokens, "out.tokens")
    logits = head(encoder.pool(encoder.encode(Tokens(x=tokens[:, 1:]))).relu())
    close(fixture, logits, "out.logits")
    loss = cross_entropy(logits, tensors["in.y"])
    close(fixture, loss, "out.loss")
    loss.backward()
    check_norms(fixture, model, fixture.sidecar["grad_norms"], _FT_NAMES)


def check_norms(fixture, model, wanted, rules):
    found = {name: p.grad for name, p in model.named_parameters()}
    for name, norm in wanted.items():
        close(fixture, found[renamed(name, rules)].norm(), torch.tensor(norm))


_SAINT_PARTS = {
    "norm": "norm",
    "fn.fn.to_qkv": "attn.qkv",
    "fn.fn.to_out": "attn.proj",
    "fn.fn.net.0": "mlp.fc1",
    "fn.fn.net.3": "mlp.fc2",
}


def saint_colrow(fixture):
    config, tensors = fixture.config, fixture.tensors
    model = SaintTrunk(
        config["dim"],
        config["nfeats"],
        depth=config["depth"],
        heads=config["heads"],
        column_width=config["dim_head_column"],
        row_width=config["dim_head_row"],
        ratio=config["ff_mult"],
    )
    state = {}
    for name, value in fixture.group("w.layers").items():
        layer, place, rest = name.split(".", 2)
        part, _, kind = rest.rpartition(".")
        block, number = 2 * int(layer) + int(place) // 2, int(place) % 2 + 1
        ours = f"norm{number}" if part == "norm" else _SAINT_PARTS[part]
        state[f"blocks.{block}.{ours}.{kind}"] = value
    model.load_state_dict(state)
    close(fixture, model(tensors["in.tokens"]), "out.tokens")
    order = tensors["in.row_permutation"]
    close(fixture, model(tensors["in.tokens"][order]), tensors["out.tokens"][order])


def scarf_ntxent(fixture):
    names = [name for name in fixture.tensors if name.startswith("out.loss_tau")]
    for name in names:
        tau = name.removeprefix("out.loss_tau")
        a, b = fixture.tensors["in.z_i"].clone().requires_grad_(), fixture.tensors["in.z_j"]
        scale = torch.tensor(1 / float(tau))
        loss = nt_xent(normalize(a, dim=1), normalize(b, dim=1), scale)
        close(fixture, loss, name)
        loss.backward()
        close(fixture, a.grad, f"out.grad_z_i_tau{tau}")
    assert names


def scarf_corruption(fixture):
    tensors, config = fixture.tensors, fixture.config
    mask = tensors["in.mask"]
    assert (mask.sum(1) == config["q"]).all()
    assert config["q"] == math.floor(config["c"] * mask.shape[1])
    out = corrupt(tensors["in.x"], tensors["in.X_pool"], mask, tensors["in.donor_row"])
    assert torch.equal(out, tensors["out.x_corrupted"])


_UNITABE_NAMES = (
    ("tab_encoder.word_emb.word_embeddings.", "unit.words.table."),
    ("tab_encoder.word_emb.norm.", "unit.words.norm."),
    ("tab_encoder.tab_cell_emb.column_name_emb.type_emb.", "unit.types."),
    ("tab_encoder.tab_cell_emb.column_name_emb.fuse_fn.", "unit.fuse."),
    ("tab_encoder.tab_cell_emb.column_cv_link.gate_fn.", "unit.link."),
    ("tab_encoder.tab_cell_emb.cls_emb.weight", "cls_token"),
    ("tab_encoder.emb2enc.", "embed_to_dim."),
    ("tab_encoder.encoding_block.layers.", "blocks."),
    (".self_attn.in_proj_", ".attn.qkv."),
    (".self_attn.out_proj.", ".attn.proj."),
    (".linear", ".fc"),
    ("tab_decoder.n_layer_state_fn.", "begin."),
    ("tab_decoder.ag_fn.", "lstm."),
    ("tab_decoder.fnn.", "spell."),
    ("tab_decoder.attn_fn.y_proj_fn.", "ask."),
    ("tab_decoder.attn_fn.x_proj_fn.", "answer."),
    ("tab_decoder.attn_fn.w_fn.", "weigh."),
)


class Reference:
    """A UniTabE with the fixture's weights."""

    def __init__(self, fixture):
        c = fixture.config
        config = UniTabEConfig(
            vocab_size=c["vocab_size"],
            embed_dim=c["emb_size"],
            dim=c["hidden_size"],
            depth=c["n_enc_layer"],
            heads=c["n_head"],
            hidden=c["ffn_size"],
            types=c["n_data_type"],
        )
        self.encoder = UniTabE(config, TabularPreprocessConfig())
        self.decoder = Decoder(c["hidden_size"], c["emb_size"], c["n_dec_layer"])
        groups = {True: {}, False: {}}
        for name, value in fixture.group("w").items():
            groups[name.startswith("tab_decoder")][renamed(name, _UNITABE_NAMES)] = value
        self.encoder.load_state_dict(groups[False])
        self.decoder.load_state_dict(groups[True])

    def batch(self, inputs):
        """The reference's cells as ours: each cell has a column and a string of its own."""
        cells = len(inputs["cn_ids"])
        ends = inputs["row_start_end"]
        return {
            "names": inputs["cn_ids"] * inputs["cn_mask"],
            "types": inputs["c_types"],
            "values": inputs["cv_ids"] * inputs["cv_mask"],
            "value_column": torch.arange(cells),
            "cell_column": torch.arange(cells),
            "cell_number": torch.zeros(cells),
            "cell_value": torch.arange(cells) + 2,
            "lengths": ends[:, 1] - ends[:, 0],
        }


def unitabe_tiny(fixture):
    tensors, reference = fixture.tensors, Reference(fixture)
    encoder, decoder = reference.encoder, reference.decoder
    encoded, masks = {}, {}
    for view in "ab":
        inputs = fixture.group(f"in.{view}")
        batch, masks[view] = reference.batch(inputs), inputs["batch_final_mask"]
        encoded[view] = encoder.encode(encoder.tokenize(batch))
        if view == "a":
            check_cells(fixture, encoder, batch, masks[view])
    close(fixture, encoded["a"].x[0], tensors["out.encoder"][masks["a"]])
    close(fixture, encoded["b"].x[0], tensors["out.encoder_b"][masks["b"]])
    pooled = {view: encoder.pool(tokens) for view, tokens in encoded.items()}

    table = encoder.unit.words.table.weight
    x = torch.zeros_like(tensors["out.encoder"]).masked_scatter(
        masks["a"][..., None], encoded["a"].x[0]
    )
    prompt = table[tensors["in.prompt_ids"]]
    context = decoder.context(x, masks["a"], prompt, tensors["in.prompt_mask"])
    logits = decoder(pooled["a"], context, table[tensors["in.target_bos"]], table)
    targets = tensors["in.target_eos"]
    close(fixture, logits[targets != 0], tensors["out.decoder_logits"][targets != 0])
    losses = {"loss_token": spelling_loss(logits, targets)}
    options = logits[:, 0, tensors["in.option_ids"]]
    close(fixture, options, "out.option_logits")
    losses["loss_class"] = cross_entropy(options, tensors["in.y_class"])
    losses["loss_contrastive_temp10"] = nt_xent(pooled["a"], pooled["b"], torch.tensor(0.1))
    for name, loss in losses.items():
        close(fixture, loss, f"out.{name}")
    a, b = pooled["a"], pooled["b"]
    pair = torch.stack([(a * b).sum(1), (a * a[tensors["in.neg_index"]]).sum(1)], dim=1)
    one_negative = cross_entropy(pair, torch.zeros(len(pair), dtype=torch.int64))
    close(fixture, one_negative, "out.loss_contrastive_one_negative")
    sum(losses.values()).backward()
    wanted = fixture.sidecar["grad_norms_of_token_plus_class_plus_contrastive10"]
    split = {True: {}, False: {}}
    for name, norm in wanted.items():
        split[name.startswith("tab_decoder")][name] = norm
    check_norms(fixture, encoder, split[False], _UNITABE_NAMES)
    check_norms(fixture, decoder, split[True], _UNITABE_NAMES)


def check_cells(fixture, encoder, batch, mask):
    cells, lengths = encoder.cells(batch)
    want = fixture.tensors["out.cell_embeddings"]
    assert (lengths + 1).tolist() == mask.sum(1).tolist()
    body = mask.clone()
    body[:, 0] = False
    close(fixture, cells, want[body])
    close(fixture, encoder.cls_token.flatten().expand(len(want), -1), want[:, 0])


def unitabe_serialisation(fixture):
    """Greedy matching with the fixture's own pieces gives what the whole vocabulary gives."""
    rows = fixture.sidecar["rows"]
    cells = [cell for row in rows for cell in row["cells"].values()]
    kinds = ("wordpieces", "name_wordpieces")
    words = Words.of(sorted({piece for cell in cells for kind in kinds for piece in cell[kind]}))
    for row in rows:
        for name, cell in row["cells"].items():
            given = {n: "boolean" for n in row["bin_features"]}
            given |= {n: "number" for n in row["num_features"]}
            check_cell(words, name, row["row"][name], cell, given.get(name, "category"))
    for views in fixture.sidecar["column_views"]:
        got = partition(views["n_columns"], views["num_partition"], views["overlap_ratio"])
        assert got == views["views"]


def check_cell(words, name, value, cell, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a column without a value
        table = read_table({name: [value]}, kinds={name: kind})
    cells = table.cells[0]
    assert TYPES[kind] == cell["type_id"]
    assert cells.missing[0] == cell["is_missing"]
    if cells.missing[0]:
        text = cell["text"]
    elif kind == "number":
        text = digits(cells.numbers[0].item(), cells.whole)
    else:
        text = cells.levels[0].strip().lower()
    assert text == cell["text"]
    assert cell["is_missing"] or words.pieces(text) == cell["wordpieces"]
    assert words.pieces(name) == cell["name_wordpieces"]


CHECKS = {
    **dict.fromkeys(("numemb_linear_relu", "numemb_pl", "numemb_plr", "numemb_plr_lite"), numemb),
    **dict.fromkeys(("numemb_ple_quantile", "numemb_ple_tree"), numemb_ple),
    "ft_transformer": ft_transformer,
    "saint_colrow": saint_colrow,
    "scarf_ntxent": scarf_ntxent,
    "scarf_corruption": scarf_corruption,
    "unitabe_tiny": unitabe_tiny,
    "unitabe_serialisation": unitabe_serialisation,
}
