from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from zoo.registry.schema import override, read, read_toml, to_table, to_toml

from zoo.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    ratio: float = 0.5
    pair: tuple[float, float] = (0.0, 1.0)
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.ratio > 1:
            raise ValueError(f"ratio must not exceed 1, got {self.ratio}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    count: int = 1
    flag: bool = False
    maybe: int | None = None
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    loose: dict[str, object] = field(default_factory=dict)


def test_round_trip_through_toml(tmp_path):
    outer = Outer(name='quo"te', maybe=3, loose={"x": [1, 2], "y": {"z": True}})
    path = tmp_path / "x.toml"
    path.write_text(to_toml(to_table(outer)))
    again = read(Outer, read_toml(path), where="x")
    assert again == outer


def test_every_problem_is_named_at_once():
    table = {"nam": "x", "count": 1.5, "flag": 1, "inner": {"ratoi": 1, "kind": "c", "pair": [1]}}
    with pytest.raises(ConfigError) as caught:
        read(Outer, table, where="file.toml")
    text = str(caught.value)
    for part in (
        "file.toml: ",
        "unknown key 'nam' (nearest: name)",
        "missing key 'name'",
        "'count' must be a whole number, got 1.5",
        "'flag' must be true or false, got 1",
        "unknown key 'inner.ratoi' (nearest: ratio)",
        "'inner.kind' must be one of 'a', 'b', got 'c'",
        "'inner.pair' must be a list of 2, got [1]",
    ):
        assert part in text
    assert "\n" not in text


def test_a_dataclass_checks_itself():
    with pytest.raises(ConfigError, match="inner: ratio must not exceed 1, got 2"):
        read(Outer, {"name": "x", "inner": {"ratio": 2}}, where="f")


def test_whole_numbers_become_floats_but_not_the_reverse():
    assert read(Inner, {"ratio": 1}, where="f").ratio == 1.0
    with pytest.raises(ConfigError):
        read(Outer, {"name": "x", "count": True}, where="f")


@pytest.mark.parametrize(
    ("word", "get", "want"),
    [
        ("inner.ratio=3e-4", lambda o: o.inner.ratio, 3e-4),
        ("count=1_000", lambda o: o.count, 1000),
        ("flag=true", lambda o: o.flag, True),
        ("name=12", lambda o: o.name, "12"),
        ("maybe=none", lambda o: o.maybe, None),
        ("inner.pair=0.25,0.75", lambda o: o.inner.pair, (0.25, 0.75)),
        ("inner.pair=[0.25, 1]", lambda o: o.inner.pair, (0.25, 1.0)),
        ("inner.kind=b", lambda o: o.inner.kind, "b"),
        ("loose.depth=2", lambda o: o.loose["depth"], 2),
        ("loose.pool=cls", lambda o: o.loose["pool"], "cls"),
    ],
)
def test_overrides_are_typed_by_their_field(word, get, want):
    outer = read(Outer, override({"name": "x", "maybe": 1}, [word]), where="f")
    assert get(outer) == want
    assert type(get(outer)) is type(want)


@pytest.mark.parametrize("word", ["count", "=3", "name.x=1"])
def test_malformed_overrides(word):
    with pytest.raises(ConfigError, match=word):
        override({"name": "x"}, [word])


def test_unreadable_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        read_toml(tmp_path / "none.toml")
    broken = Path(tmp_path / "broken.toml")
    broken.write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"broken\.toml: not valid TOML"):
        read_toml(broken)
