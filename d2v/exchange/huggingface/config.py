"""The `config.json` of Hugging Face's data2vec models: what d2v follows, and what it refuses.

A file names what differs from its class's defaults alone, so these stand here, too (reference
section 5.5). A field of one value alone is one that d2v has no other choice for.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from d2v.errors import UsageError
from d2v.exchange.complaints import complaints

CONFIG = "config.json"
_HARMLESS = re.compile(
    r"_name_or_path|name_or_path|transformers_version|(torch_)?dtype|label2id|(use_)?return_dict"
    r"|output_\w+|torchscript|use_cache|gradient_checkpointing|chunk_size_feed_forward"
    r"|tie_word_embeddings|finetuning_task|classifier_proj_size|adapter_\w+|num_adapter_layers"
    r"|num_feat_extract_layers|mask_\w+|ctc_\w+|tdnn_\w+|xvector_\w+|use_weighted_layer_sum"
    r"|apply_spec_augment|pool_scales|use_auxiliary_head|auxiliary_\w+|out_indices|out_features"
    r"|stage_names|semantic_loss_ignore_index"
)
"""Settings that change no output of the models that are read here: they are of training, of heads
that d2v has not, or of how Hugging Face computes."""


def _one_side(value: Any) -> Any:
    """One number for both sides of a square; anything else is left for the type to refuse."""
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    return value


Side = Annotated[int, BeforeValidator(_one_side), Field(ge=1)]
"""Of a square."""
Activation = Literal["gelu", "gelu_python"]
"""Two names of the exact GELU; d2v's blocks have no other."""
Rate = Annotated[float, Field(ge=0, lt=1)]


class CommonConfig(BaseModel):
    """What all three say."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    architectures: tuple[str, ...] | None = None
    hidden_size: int = Field(768, ge=1)
    num_hidden_layers: int = Field(12, ge=1)
    num_attention_heads: int = Field(12, ge=1)
    intermediate_size: int = Field(3072, ge=1)
    hidden_act: Activation = "gelu"
    initializer_range: float = Field(0.02, gt=0)
    id2label: dict[int, str] | None = None
    num_labels: int | None = None
    problem_type: Literal["regression", "single_label_classification"] | None = None
    quantization_config: None = None
    auto_map: None = None
    pruned_heads: dict[str, Any] = Field({}, max_length=0)
    is_encoder_decoder: Literal[False] = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of a classifier's outputs in their order, each once."""
        names = self.id2label
        if names is None:
            count = 2 if self.num_labels is None else self.num_labels
            names = {number: f"LABEL_{number}" for number in range(count)}
        ordered = [names[number] for number in sorted(names)]
        often = Counter(ordered)
        return tuple(
            name if often[name] == 1 else f"{name} ({number})"
            for number, name in enumerate(ordered)
        )

    @property
    def regresses(self) -> bool:
        """Whether a classifier's one output is a number."""
        return self.problem_type == "regression" or len(self.labels) == 1

    @model_validator(mode="after")
    def _check_common(self) -> CommonConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads "
                f"{self.num_attention_heads}"
            )
        if self.problem_type == "regression" and len(self.labels) > 1:
            raise ValueError(
                f"problem_type is regression with {len(self.labels)} outputs, and d2v's task "
                "regress has one"
            )
        return self


class VisionConfig(CommonConfig):
    """Of data2vec-vision."""

    hidden_dropout_prob: Rate = 0.0
    attention_probs_dropout_prob: Rate = 0.0
    layer_norm_eps: float = Field(1e-12, gt=0)
    image_size: Side = 224
    patch_size: Side = 16
    num_channels: Literal[1, 3] = 3
    use_mask_token: bool = False
    use_absolute_position_embeddings: bool = False
    use_relative_position_bias: bool = False
    use_shared_relative_position_bias: bool = False
    layer_scale_init_value: float = 0.1
    drop_path_rate: Rate = 0.1
    use_mean_pooling: bool = True

    @property
    def positions(self) -> Literal["learned", "relative", "relative_per_block", "none"]:
        """What d2v calls them."""
        if self.use_absolute_position_embeddings:
            return "learned"
        if self.use_shared_relative_position_bias:
            return "relative"
        return "relative_per_block" if self.use_relative_position_bias else "none"

    @model_validator(mode="after")
    def _check(self) -> VisionConfig:
        kinds = {
            "use_absolute_position_embeddings": self.use_absolute_position_embeddings,
            "use_relative_position_bias": self.use_relative_position_bias,
            "use_shared_relative_position_bias": self.use_shared_relative_position_bias,
        }
        chosen = [name for name, wanted in kinds.items() if wanted]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are both set, and d2v has one at a time")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}: "
                "Hugging Face would leave out the border, d2v reads whole pictures"
            )
        return self


class AudioConfig(CommonConfig):
    """Of data2vec-audio."""

    hidden_dropout: Rate = 0.1
    activation_dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    feat_proj_dropout: Rate = 0.0
    final_dropout: Rate = 0.1
    layerdrop: Rate = 0.1
    layer_norm_eps: float = Field(1e-5, gt=0)
    feat_extract_activation: Activation = "gelu"
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_pos_kernel_size: int = Field(19, ge=1)
    num_conv_pos_embeddings: int = Field(5, ge=1)
    num_conv_pos_embedding_groups: int = Field(16, ge=1)
    mask_time_prob: float = 0.05
    mask_feature_prob: float = 0.0
    vocab_size: int = 32
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    add_adapter: Literal[False] = False
    output_hidden_size: int | None = None

    @model_validator(mode="after")
    def _check(self) -> AudioConfig:
        counts = len(self.conv_dim), len(self.conv_kernel), len(self.conv_stride)
        if len(set(counts)) > 1:
            raise ValueError(
                f"conv_dim, conv_kernel and conv_stride name {counts} layers, not equally many"
            )
        return self


class TextConfig(CommonConfig):
    """Of data2vec-text."""

    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    classifier_dropout: Rate | None = None
    layer_norm_eps: float = Field(1e-12, gt=0)
    vocab_size: int = Field(30522, ge=1)
    max_position_embeddings: int = Field(512, ge=1)
    type_vocab_size: int = Field(2, ge=1)
    pad_token_id: int = Field(1, ge=0)
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False

    @model_validator(mode="after")
    def _check(self) -> TextConfig:
        tokens = self.max_position_embeddings - self.pad_token_id - 1
        if tokens < 3:
            raise ValueError(
                f"max_position_embeddings {self.max_position_embeddings} leaves {tokens} positions "
                f"behind that of the padding, {self.pad_token_id}: too few for a text"
            )
        return self


AnyConfig = TypeVar("AnyConfig", bound=CommonConfig)


def checked(kind: type[AnyConfig], values: Mapping[str, Any], place: Path) -> AnyConfig:
    """The settings of a `config.json`.

    Args:
        kind: of model.
        values: what the file says.
        place: the file, for errors.

    Raises:
        UsageError: a setting that d2v's encoder has no counterpart of; says which.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(
            f"{place}: {complaints(error)}",
            expected="a model that d2v can express: outputs would differ otherwise",
        ) from error


def unread(kind: type[CommonConfig], values: Mapping[str, Any]) -> list[str]:
    """Settings of a file that nothing here knows, sorted."""
    known = {*kind.model_fields, "model_type"}
    return sorted(name for name in values.keys() - known if not _HARMLESS.fullmatch(name))


def mlp_ratio(dim: int, hidden: int) -> float:
    """The ratio that a block turns into exactly `hidden`: it cuts `dim * ratio` to a whole."""
    ratio = hidden / dim
    while int(dim * ratio) < hidden:  # the product was rounded down
        ratio = math.nextafter(ratio, math.inf)
    return ratio
