"""Tables in the manner of scikit-learn, and pretraining on tables that are in memory."""

from zoo.modalities.tabular.read import read_table
from zoo.tabular.estimators import Classifier, Regressor
from zoo.tabular.imputer import Imputer
from zoo.tabular.prompts import ask
from zoo.tabular.shards import pretrain_tables, write_tables

__all__ = [
    "Classifier",
    "Imputer",
    "Regressor",
    "ask",
    "pretrain_tables",
    "read_table",
    "write_tables",
]
