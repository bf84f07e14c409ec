"""The whole run configuration."""

from typing import Self

from pydantic import Field, model_validator

from loratory.config.adapter import AdapterConfig
from loratory.config.data import DataConfig
from loratory.config.evaluation import EvaluationConfig
from loratory.config.method_capabilities import quantised_fault
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

    @model_validator(mode="after")
    def _fit_sections(self) -> Self:
        kept = self.quantization
        fault = quantised_fault(self.adapter.method, load_in_4bit=kept.load_in_4bit, load_in_8bit=kept.load_in_8bit)
        if fault is not None:
            raise ValueError(fault)
        return self
