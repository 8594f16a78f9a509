"""What a run reports: files, services as stubs, the line, and who keeps silent."""

import io
import json
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from rich.console import Console

from zoo.errors import UnknownNameError, UsageError
from zoo.training import metrics
from zoo.training.loggers import Loggers, check_loggers
from zoo.training.metrics import (
    Reporter,
    Silent,
    count_tokens,
    describe,
    memory_gb,
    read_metrics,
)

ROW = {
    "step": 7,
    "loss": 0.51234,
    "grad_norm": 1.5,
    "lr": 1e-3,
    "samples_per_second": 12_345.0,
    "tokens_per_second": 2_400_000.0,
    "data_wait": 0.02,
    "mfu": 0.412,
    "memory_gb": 1.25,
    "bad_samples": 0.0,
}


class Service(ModuleType):
    """A tracking package that writes down every call."""

    def __init__(self, name, broken=()):
        super().__init__(name)
        self.calls, self.broken = [], broken

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            if name in self.broken:
                raise ConnectionError("no network")
            self.calls.append((name, args, kwargs))
            return SimpleNamespace(
                log=self.__getattr__("log"),
                finish=self.__getattr__("finish"),
                info=SimpleNamespace(run_id="made-by-mlflow"),
            )

        return call

    def named(self, name):
        return [(args, kwargs) for called, args, kwargs in self.calls if called == name]


@pytest.fixture
def service(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)

    def make(name, **options):
        monkeypatch.setitem(sys.modules, name, Service(name, **options))
        return sys.modules[name]

    return make


def numbers(row):
    return {name: value for name, value in row.items() if name != "step"}


def test_rows_go_to_the_file_and_to_tensorboard(tmp_path, capsys):
    with Reporter(tmp_path, total=9, start=0) as reporter:
        reporter.log({"step": 1, "loss": 1.0})
        reporter.log({"step": 9, "loss": 0.5})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 9, "loss": 0.5}]
    assert list((tmp_path / "tensorboard").iterdir())
    assert capsys.readouterr().err == "step 9/9  loss 0.5000  0 s left\n"


def test_a_resumed_run_drops_later_rows(tmp_path):
    rows = [{"step": step, "loss": 1.0} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"st')
    with Reporter(tmp_path, total=9, start=2, loggers=(), progress=False) as reporter:
        reporter.log({"step": 3, "loss": 0.5})
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 1.0, 0.5]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_rollback_takes_its_rows_back(tmp_path):
    rows = [{"step": step, "loss": 1.0 * i} for i, step in enumerate((1, 2, 3, 4, 3, 5))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [
        *((1, 0.0), (2, 1.0), (3, 4.0), (5, 5.0))
    ]


def test_other_processes_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with Silent() as reporter:
        reporter.log(ROW)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "logged", "closed"),
    [
        ("wandb", "log", "finish"),
        ("trackio", "log", "finish"),
        ("mlflow", "log_metrics", "end_run"),
    ],
)
def test_services(name, logged, closed, service, tmp_path):
    stub = service(name)
    loggers = Loggers([name], tmp_path, start=0)
    loggers.log(ROW)
    ended = len(stub.named(closed))
    loggers.close()
    assert stub.named(logged) == [((numbers(ROW),), {"step": 7})]
    assert len(stub.named(closed)) == ended + 1


def test_services_stay_offline_and_continue_a_run(service, tmp_path, monkeypatch):
    names = ("wandb", "trackio", "mlflow")
    wandb, trackio, mlflow = map(service, names)
    for start in (0, 5):
        Loggers(names, tmp_path, start=start).close()
    first, second = (options for _, options in wandb.named("init"))
    assert first["mode"] == "offline"
    assert first["id"] == second["id"]
    assert mlflow.named("set_tracking_uri")[0][0][0].startswith("sqlite:///")
    assert mlflow.named("start_run")[-1][1] == {"run_id": "made-by-mlflow"}
    assert len({options["name"] for _, options in trackio.named("init")}) == 1
    monkeypatch.setenv("WANDB_API_KEY", "x")
    Loggers(["wandb"], tmp_path, start=5).close()
    assert wandb.named("init")[-1][1]["mode"] == "online"


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_failing_service_ends_nothing(broken, service, tmp_path, caplog):
    service("trackio", broken=(broken,))
    with (
        caplog.at_level(logging.WARNING, "zoo"),
        Reporter(tmp_path, total=9, start=0, loggers=["trackio"], progress=False) as reporter,
    ):
        reporter.log({"step": 1, "loss": 1.0})
        reporter.log({"step": 2, "loss": 1.0})
    assert len(read_metrics(tmp_path)) == 2
    assert [record.message for record in caplog.records] == [
        "trackio takes no more of this run (ConnectionError: no network); metrics.jsonl goes on"
    ]


def test_loggers_are_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"wandb is not installed: pip install 'zoo\[wandb\]'"):
        check_loggers(["tensorboard", "wandb"])
    with pytest.raises(UnknownNameError, match="unknown logger 'wandv'; did you mean wandb"):
        check_loggers(["wandv"])


def test_the_line_keeps_its_columns():
    line = describe(ROW)
    assert line == (
        "loss 0.5123  lr 1.0e-03  12.3k samples/s  data wait   2%  |g| 1.5      MFU 41.2%  "
        "  1.2 GB  2.40M tokens/s"
    )
    other = ROW | {"samples_per_second": 7.0, "data_wait": 1.0, "grad_norm": 123.456, "mfu": 0.05}
    assert len(describe(other)) == len(line)
    assert describe(ROW, room=50) == line[:40]
    assert describe({"step": 1, "loss": 2.0}) == "loss 2.0000"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "    0"),
        (999.4, "  999"),
        (999.6, "1.00k"),
        (9_949, "9.95k"),
        (9_996, "10.0k"),
        (99_951, " 100k"),
        (2.5e9, "2.50G"),
    ],
)
def test_short_numbers(value, text):
    assert metrics._short(value) == text


@pytest.mark.parametrize("width", [60, 100, 160])
def test_the_live_view_is_one_line(width, tmp_path, monkeypatch):
    out = io.StringIO()
    screen = Console(file=out, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr("rich.console.Console", lambda stderr: screen)
    with Reporter(tmp_path, total=7, start=0, loggers=()) as reporter:
        reporter.log(ROW)
    last = out.getvalue().split("\x1b[2K")[-1].splitlines()[0]
    assert last.startswith("7/7")
    assert "loss 0.5" in last
    assert ("MFU" in last) == (width > 100)
    assert len(last) <= width
    assert out.getvalue().count("\n") <= 2


def test_tokens_and_memory():
    packed = {"ids": torch.zeros(9), "lengths": torch.tensor([4, 5])}
    assert count_tokens(packed, SimpleNamespace()) == 9
    dense = {"image": torch.zeros(3, 1, 8, 8)}
    assert count_tokens(dense, SimpleNamespace(grid=(4, 4))) == 48
    assert count_tokens(dense, SimpleNamespace()) == 3
    assert 0.05 < memory_gb(torch.device("cpu")) < 50
