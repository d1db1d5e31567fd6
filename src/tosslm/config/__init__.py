"""The config: one tree, read from YAML, changed by dotted overrides, refused at the door when it is wrong."""

from __future__ import annotations

from tosslm.config.data import DataConfig, ModelConfig, SourceConfig
from tosslm.config.evaluation import (
    REFUSAL_TEXTS,
    ClassifierConfig,
    DiagnosisConfig,
    EvaluationConfig,
    JudgeConfig,
    PromptsConfig,
)
from tosslm.config.reading import load_config
from tosslm.config.section import Section
from tosslm.config.selection import RefinementConfig, ScoringConfig, SelectionConfig
from tosslm.config.serving import ServerConfig
from tosslm.config.training import FinetuneConfig, LoraConfig, ReferencesConfig, TrainingConfig
from tosslm.config.tree import CompareConfig, Config, covered, explicit_value

__all__ = [
    "REFUSAL_TEXTS",
    "ClassifierConfig",
    "CompareConfig",
    "Config",
    "DataConfig",
    "DiagnosisConfig",
    "EvaluationConfig",
    "FinetuneConfig",
    "JudgeConfig",
    "LoraConfig",
    "ModelConfig",
    "PromptsConfig",
    "ReferencesConfig",
    "RefinementConfig",
    "ScoringConfig",
    "Section",
    "SelectionConfig",
    "ServerConfig",
    "SourceConfig",
    "TrainingConfig",
    "covered",
    "explicit_value",
    "load_config",
]
