"""What all encoders of rows share: features of whole tables."""

from typing import ClassVar

import numpy as np
import torch
from zoo.modalities.contracts import to_device
from zoo.modalities.progress import batch_starts
from zoo.modalities.tables import TableEncoder, TablePreprocess
from zoo.modalities.tabular.preprocess import table_of
from zoo.modalities.tabular.table import Column, Table

__all__ = ["RowEncoder"]


class RowEncoder(TableEncoder):
    """An encoder whose items are the rows of a table."""

    modality = "tabular"
    rows_mix: ClassVar[bool] = False  # features of a row depend on the other rows of its batch
    preprocess: TablePreprocess

    @classmethod
    def sizes_for(cls, table: Table) -> dict[str, object]:
        """Arguments without which it cannot read the table; none where any table will do."""
        return {}

    @torch.inference_mode()
    def embed(
        self,
        inputs: object,
        *,
        batch_size: int = 256,
        progress: bool | None = None,
        columns: tuple[Column, ...] | None = None,
    ) -> np.ndarray:
        """Pooled features of the rows of a table.

        Args:
            inputs: what `read_table` takes, or a sample; or a list of such, whose rows follow one
                another.
            batch_size: rows that go through the encoder together.
            progress: a bar on the terminal; by default for more than one batch on a terminal.
            columns: statistics of the table that a model was fitted on; the rows' own by default.

        Returns:
            (rows, dim) float32.
        """
        if isinstance(inputs, list | tuple):
            parts = [
                self.embed(one, batch_size=batch_size, progress=progress, columns=columns)
                for one in inputs
            ]
            return np.concatenate([np.empty((0, self.dim), np.float32), *parts])
        table = table_of(inputs)
        table = table if columns is None else table.like(columns)
        out = np.empty((table.rows, self.dim), np.float32)
        was_training = self.training
        self.eval()
        try:
            for start in batch_starts(table.rows, batch_size, progress):
                part = slice(start, start + batch_size)
                out[part] = self._embed(table.take(np.arange(table.rows)[part]))
        finally:
            self.train(was_training)
        return out

    def _embed(self, table: Table) -> np.ndarray:
        batch = self.preprocess.collate([self.preprocess({"table": table})])
        device = next(self.parameters()).device
        features: np.ndarray = self(to_device(batch, device)).pooled.float().cpu().numpy()
        return features
