"""Checkers of the probes' heads."""

from golden_checks.audio_wav2vec2 import close_to
from zoo.probes.attentive import Attentive
from zoo.probes.losses import asymmetric
from zoo.probes.prototypical import Prototypical


def probe(fixture):
    config, tensors, close = fixture.config, fixture.tensors, close_to(fixture)
    tokens = tensors["tokens"]
    head = Prototypical(
        config["dim"],
        config["classes"],
        grid=tuple(config["grid"]),
        prefix=int(config["focal"]),
        per_class=config["prototypes_per_class"],
        upsample=config["upsample"],
    )
    assert head.bias.unique().tolist() == [config["bias_init"]]
    assert head.weight.unique().tolist() == [config["weight_init"]]
    file = fixture.group("weights.ppnet")
    head.load_state_dict(
        {
            "prototype_vectors": file["prototype_vectors"].flatten(1),
            "weight": file["last_layer.weight"],
            "bias": file["last_layer.bias"],
        }
    )
    close(head.similarity(tokens).flatten(2).amax(-1), "prototype_scores")
    logits = head(tokens).detach().requires_grad_()
    close(logits, "logits")
    close(head.penalty(), tensors["orthogonality_loss"][0])
    loss = asymmetric(logits, tensors["targets"])
    close(loss, tensors["asl_loss"][0])
    loss.backward()
    close(logits.grad, "asl_grad_logits")
    head.prefix = 0  # no focal similarity: nothing is subtracted from the tokens behind the class
    close(head(tokens[:, 1:]), "logits_no_focal")

    attentive = Attentive(config["dim"], 1, heads=config["attentive_heads"], prefix=1)
    file = fixture.group("weights.attentive_probe")
    file["query"] = file.pop("cls_token")
    assert not attentive.load_state_dict(file, strict=False).unexpected_keys
    close(attentive.pool(tokens), "attentive_pooled")


CHECKS = {"probe": probe}
