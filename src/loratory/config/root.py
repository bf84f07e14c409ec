"""The whole run configuration."""

from pydantic import Field

from loratory.config.adapter import AdapterConfig
from loratory.config.data import DataConfig
from loratory.config.evaluation import EvaluationConfig
from loratory.config.model import ModelConfig
from loratory.config.objective import ObjectiveConfig
from loratory.config.predict import PredictConfig
from loratory.config.quantization import QuantizationConfig
from loratory.config.run import OutputConfig
from loratory.config.section import Section
from loratory.config.train import TrainConfig


class RunConfig(Section):
    """Everything that one run needs."""

    model: ModelConfig
    data: DataConfig
    adapter: AdapterConfig = Field(default_factory=AdapterConfig)
    quantization: QuantizationConfig = Field(default_factory=QuantizationConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    predict: PredictConfig = Field(default_factory=PredictConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    run: OutputConfig = Field(default_factory=OutputConfig)
