"""`ask`: targets without a label, from a UniTabE that was pretrained to fill in cells.

As in the paper (arXiv 2307.09249) the target is a column that is hidden, and a prompt names it; an
option is as probable as its spelling is to the decoder, among the options that are given.

Notation: N rows, K options.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.errors import UsageError
from zoo.modalities.tables import END, HIDDEN
from zoo.modalities.tabular.encoder import UniTabE
from zoo.modalities.tabular.read import read_table
from zoo.modalities.tabular.table import Cells, Column, Table
from zoo.objectives.unitabe import UniTabEObjective
from zoo.pretraining import restore_objective
from zoo.runs import Run

__all__ = ["ask"]

_ROWS = 64  # that go through the encoder together


@torch.inference_mode()
def ask(run: Run, rows: object, column: str, options: Sequence[str]) -> NDArray[np.float64]:
    """How probable each option is as the value of a column that the rows lack.

    Args:
        run: a pretraining with the objective `unitabe`.
        rows: what `read_table` takes; where the column is there it is not looked at.
        column: what the prompt asks for.
        options: strings; at least two, none twice.

    Returns:
        (N, K), each row sums to 1.

    Raises:
        UsageError: the run has another objective, or there is nothing to choose from.
    """
    if len(set(options)) != len(options) or len(options) < 2:
        raise UsageError(f"options {list(options)}: give at least two, none twice")
    encoder, objective = restore_objective(run)
    if not isinstance(encoder, UniTabE) or not isinstance(objective, UniTabEObjective):
        raise UsageError("this run cannot be asked: pretrain with the objective unitabe")
    preprocess = encoder.preprocess
    pieces = preprocess.pieces(options, preprocess.config.value_pieces)
    spelled = [torch.tensor([*one, END]) for one in pieces]
    wanted = torch.nn.utils.rnn.pad_sequence(spelled, batch_first=True)
    config = objective.config
    prompt = preprocess.pieces([config.prompt.format(column=column)], config.prompt_pieces)[0]
    table = read_table(rows)
    table = table.pick(name for name in table.names if name != column)
    table = Table(
        (*table.columns, Column(name=column, kind="category")),
        (*table.cells, Cells(None, np.full(table.rows, -1, np.int32))),
        table.rows,
    )
    found = [torch.empty(0, len(options))]
    for part in np.split(np.arange(table.rows), range(_ROWS, table.rows, _ROWS)):
        batch = preprocess.collate([preprocess(table.take(part))])
        asked = batch["cell_column"] == len(table.columns) - 1
        batch["cell_value"] = batch["cell_value"].masked_fill(asked, HIDDEN)
        found.append(objective.log_likelihoods(encoder, batch, torch.tensor(prompt), wanted))
    return torch.cat(found).double().softmax(1).numpy()
