"""The run configuration: one YAML file, one section per room, no torch import.

`RunConfig` is the whole; only `loratory.cli` and `loratory.engine` see it. A room gets its own section or plain values.
"""

from loratory.config.adapter import AdapterConfig
from loratory.config.data import DataConfig
from loratory.config.evaluation import EvaluationConfig
from loratory.config.grpo import GrpoConfig
from loratory.config.model import ModelConfig
from loratory.config.objective import ObjectiveConfig
from loratory.config.ppo import PpoConfig
from loratory.config.predict import PredictConfig
from loratory.config.quantization import QuantizationConfig
from loratory.config.reader import (
    ConfigReading,
    build_config,
    config_to_yaml,
    load_config,
    read_config,
    read_config_text,
)
from loratory.config.rloo import RlooConfig
from loratory.config.rollout import RolloutConfig
from loratory.config.root import RunConfig
from loratory.config.run import OutputConfig
from loratory.config.schema import config_reference, config_schema, schema_to_json
from loratory.config.train import TrainConfig

__all__ = [
    "AdapterConfig",
    "ConfigReading",
    "DataConfig",
    "EvaluationConfig",
    "GrpoConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OutputConfig",
    "PpoConfig",
    "PredictConfig",
    "QuantizationConfig",
    "RlooConfig",
    "RolloutConfig",
    "RunConfig",
    "TrainConfig",
    "build_config",
    "config_reference",
    "config_schema",
    "config_to_yaml",
    "load_config",
    "read_config",
    "read_config_text",
    "schema_to_json",
]
