import sys
import textwrap

import pytest
from zoo.registry import catalogue
from zoo.registry.card import Card, read_card
from zoo.registry.catalogue import find, own_card_files

import zoo
from zoo.errors import ConfigError, UnknownNameError


def test_list_filters():
    assert zoo.list_models("mae*") == ["mae-base", "mae-huge", "mae-large"]
    assert zoo.list_models("stdlib*", modality="code") == ["stdlib-mlm-tiny"]
    assert zoo.list_models("mae-b*", tags=True) == ["mae-base.in1k"]
    assert zoo.list_models("mae*", pretrained=True) == zoo.list_models("mae*")
    assert "digits-mae-tiny" not in zoo.list_models(pretrained=True)
    assert "digits-mae-tiny" in zoo.list_models(objective="mae")
    assert zoo.list_models("nothing*") == []


@pytest.mark.parametrize(
    ("arguments", "near"), [({"modality": "vison"}, "vision"), ({"objective": "mea"}, "mae")]
)
def test_unknown_filters_suggest(arguments, near):
    with pytest.raises(UnknownNameError, match=near):
        zoo.list_models(**arguments)


def test_names_families_and_tags_mean_the_same_card():
    assert zoo.card("mae") == zoo.card("mae-base") == zoo.card("mae-base.in1k")
    assert isinstance(zoo.card("mae"), Card)
    assert zoo.card("mae-vit-large") == zoo.card("mae-vit") == zoo.card("mae")
    assert find("mae-vit-large.in1k")[0].name == "mae-large"
    assert find("mae-vit")[0].name == "mae-base"


@pytest.mark.parametrize(
    ("name", "near"),
    [("mae-bse", "mae-base"), ("digits", "digits-mae"), ("mae-base.in1", "in1k"), ("", "unknown")],
)
def test_misspelt_names_suggest(name, near):
    with pytest.raises(UnknownNameError, match=near):
        zoo.card(name)


@pytest.mark.parametrize("path", own_card_files(), ids=lambda path: path.stem)
def test_cards_are_complete(path):
    card = read_card(path)
    assert path.stem == card.family
    assert path.parent.name == card.modality
    for result in card.results:
        assert result.source
    for weights in card.weights:
        assert weights.licence, "published weights need the licence that their authors state"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that adds a card and an architecture of its own."""
    cards = tmp_path / "guest_zoo" / "cards"
    cards.mkdir(parents=True)
    (tmp_path / "guest_zoo" / "__init__.py").write_text(
        "from zoo.modalities.vision.vit import ViT\nclass Guest(ViT):\n    pass\n"
    )
    (cards / "__init__.py").touch()
    (cards / "guest.toml").write_text(
        textwrap.dedent(
            """
            family = "guest"
            modality = "vision"
            summary = "from elsewhere"
            default_size = "s"
            [encoder]
            name = "guest_zoo:Guest"
            [sizes.s]
            dim = 32
            depth = 1
            heads = 2
            """
        )
    )
    info = tmp_path / "guest_zoo-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest-zoo\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[zoo.cards]\nguest = guest_zoo.cards\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    catalogue.rows.cache_clear()
    yield cards
    catalogue.rows.cache_clear()
    for name in [name for name in sys.modules if name.startswith("guest_zoo")]:
        del sys.modules[name]


def test_packages_add_cards(package):
    assert "guest-s" in zoo.list_models()
    encoder = zoo.create("guest")
    assert type(encoder).__name__ == "Guest"
    assert encoder.dim == 32


def test_a_name_cannot_be_taken_twice(package):
    text = (package / "guest.toml").read_text()
    (package / "guest.toml").write_text(text.replace('"guest"', '"mae"').replace(".s]", ".base]"))
    (package / "guest.toml").write_text(
        (package / "guest.toml").read_text().replace('"s"', '"base"')
    )
    with pytest.raises(ConfigError, match=r"guest\.toml: model 'mae-base' exists already"):
        zoo.list_models()


def test_a_malformed_card_names_file_and_key(package):
    text = (package / "guest.toml").read_text()
    (package / "guest.toml").write_text(text.replace("summary", "sumary"))
    with pytest.raises(ConfigError, match=r"guest\.toml: .*'sumary' \(nearest: summary\)"):
        zoo.list_models()


def test_sizes_named_in_a_card_must_exist(package):
    text = (package / "guest.toml").read_text()
    (package / "guest.toml").write_text(text.replace('default_size = "s"', 'default_size = "xl"'))
    with pytest.raises(ConfigError, match="default_size names size 'xl'"):
        zoo.list_models()
