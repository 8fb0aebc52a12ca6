"""Architectures of the `transformers` library with random weights, each small enough to compile in seconds or as the
library has it, and what one calls them with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

Kind: TypeAlias = Literal["encoder", "decoder", "vision", "speech"]
Size: TypeAlias = Literal["small", "base"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture: `model` is a class of the library, whose config takes the arguments `small` for the small size.

    Attributes:
        part: the path of the module that is compiled, for instance "encoder"; the whole model if empty.
        answer: the only answer that is compiled, for instance "last_hidden_state"; all of them if empty.
        takes: the name of the input; "input_ids" are numbers of tokens and come with a mask.
        shape: of the input for the small size, batch first.
        base: of the input for the library's own config.
    """

    name: str
    kind: Kind
    model: str
    config: str
    small: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    answer: str = ""
    takes: str = "input_ids"
    shape: tuple[int, ...] = (1, 32)
    base: tuple[int, ...] = (1, 128)


_TOKENS = "last_hidden_state"
_DEEP = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_TEXT = {**_DEEP, "vocab_size": 101, "max_position_embeddings": 64}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_IMAGE = {**_DEEP, "image_size": 32, "patch_size": 8}
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 48]}
_WAVE = {
    **_DEEP,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}


def _text(name: str, model: str, config: str, **more: Any) -> Architecture:
    return Architecture(name, "encoder", model, config, {**_TEXT, **more})


def _decoder(name: str, model: str, config: str, small: Mapping[str, Any] = _TEXT, **more: Any) -> Architecture:
    return Architecture(name, "decoder", model, config, {**small, "use_cache": False, **more})


def _vision(
    name: str, model: str, config: str, small: Mapping[str, Any], pixels: int = 32, part: str = ""
) -> Architecture:
    shape, base = (1, 3, pixels, pixels), (1, 3, 224, 224)
    return Architecture(name, "vision", model, config, small, part, takes="pixel_values", shape=shape, base=base)


def _speech(name: str, model: str, config: str, small: Mapping[str, Any] = _WAVE) -> Architecture:
    return Architecture(name, "speech", model, config, small, takes="input_values", shape=(1, 1600), base=(1, 16000))


ARCHITECTURES = (
    _text("BERT", "BertModel", "BertConfig"),
    _text("RoBERTa", "RobertaModel", "RobertaConfig"),
    _text("XLM-RoBERTa", "XLMRobertaModel", "XLMRobertaConfig"),
    _text("CamemBERT", "CamembertModel", "CamembertConfig"),
    Architecture(
        "DistilBERT",
        "encoder",
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": 101, "max_position_embeddings": 64, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    ),
    _text("ALBERT", "AlbertModel", "AlbertConfig", embedding_size=32),
    _text("ELECTRA", "ElectraModel", "ElectraConfig", embedding_size=32),
    _text("MPNet", "MPNetModel", "MPNetConfig"),
    _text(
        "MobileBERT",
        "MobileBertModel",
        "MobileBertConfig",
        embedding_size=32,
        intra_bottleneck_size=32,
        true_hidden_size=32,
    ),
    _text("SqueezeBERT", "SqueezeBertModel", "SqueezeBertConfig", embedding_size=64),
    _text("DeBERTa", "DebertaModel", "DebertaConfig", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    _text("DeBERTa-v2", "DebertaV2Model", "DebertaV2Config", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    _text("LayoutLM", "LayoutLMModel", "LayoutLMConfig"),
    _text("RoFormer", "RoFormerModel", "RoFormerConfig"),
    _text(
        "ModernBERT",
        "ModernBertModel",
        "ModernBertConfig",
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        cls_token_id=1,
        sep_token_id=1,
    ),
    _text("ERNIE", "ErnieModel", "ErnieConfig"),
    _text("Data2Vec text", "Data2VecTextModel", "Data2VecTextConfig"),
    _text("BERT generation", "BertGenerationEncoder", "BertGenerationConfig"),
    _text("ESM", "EsmModel", "EsmConfig", mask_token_id=5, pad_token_id=1),
    _text("Nyströmformer", "NystromformerModel", "NystromformerConfig"),
    _text("FNet", "FNetModel", "FNetConfig"),
    Architecture(
        "T5 encoder",
        "encoder",
        "T5EncoderModel",
        "T5Config",
        {"vocab_size": 101, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    ),
    Architecture(
        "BART encoder",
        "encoder",
        "BartModel",
        "BartConfig",
        {
            "vocab_size": 101,
            "max_position_embeddings": 64,
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
        },
        "encoder",
    ),
    # Its pooled answer is the token with the largest number, which is found by argmax.
    Architecture(
        "CLIP text", "encoder", "CLIPTextModel", "CLIPTextConfig", {**_TEXT, "eos_token_id": 2}, answer=_TOKENS
    ),
    Architecture("SigLIP text", "encoder", "SiglipTextModel", "SiglipTextConfig", _TEXT),
    _decoder(
        "GPT-2",
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 101, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4},
        bos_token_id=1,
        eos_token_id=1,
    ),
    _decoder("OPT", "OPTForCausalLM", "OPTConfig", ffn_dim=128, word_embed_proj_dim=64),
    _decoder(
        "GPT-Neo",
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            "vocab_size": 101,
            "max_position_embeddings": 64,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "intermediate_size": 128,
        },
        bos_token_id=1,
        eos_token_id=1,
    ),
    _decoder("GPT-NeoX", "GPTNeoXForCausalLM", "GPTNeoXConfig"),
    _decoder(
        "GPT-J",
        "GPTJForCausalLM",
        "GPTJConfig",
        {"vocab_size": 101, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
        bos_token_id=1,
        eos_token_id=1,
    ),
    _decoder("LLaMA", "LlamaForCausalLM", "LlamaConfig", _GROUPED),
    _decoder("Mistral", "MistralForCausalLM", "MistralConfig", _GROUPED),
    _decoder("Qwen2", "Qwen2ForCausalLM", "Qwen2Config", _GROUPED),
    _decoder("Qwen3", "Qwen3ForCausalLM", "Qwen3Config", _GROUPED, head_dim=16),
    _decoder("Phi", "PhiForCausalLM", "PhiConfig", _GROUPED),
    _decoder("Phi-3", "Phi3ForCausalLM", "Phi3Config", _GROUPED, pad_token_id=0),
    _decoder("Gemma", "GemmaForCausalLM", "GemmaConfig", _GROUPED, head_dim=16),
    _decoder("Gemma 2", "Gemma2ForCausalLM", "Gemma2Config", _GROUPED, head_dim=16),
    _decoder("Falcon", "FalconForCausalLM", "FalconConfig"),
    _decoder(
        "BLOOM", "BloomForCausalLM", "BloomConfig", {"vocab_size": 101, "hidden_size": 64, "n_layer": 2, "n_head": 4}
    ),
    _decoder("StableLM", "StableLmForCausalLM", "StableLmConfig", _GROUPED),
    _decoder("OLMo", "OlmoForCausalLM", "OlmoConfig", _GROUPED),
    _decoder("StarCoder2", "Starcoder2ForCausalLM", "Starcoder2Config", _GROUPED),
    _decoder("Cohere", "CohereForCausalLM", "CohereConfig", _GROUPED),
    Architecture(
        "Whisper encoder",
        "speech",
        "WhisperModel",
        "WhisperConfig",
        {
            "vocab_size": 101,
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "num_mel_bins": 16,
            "max_source_positions": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        "encoder",
        takes="input_features",
        shape=(1, 16, 64),
        base=(1, 80, 3000),
    ),
    _speech("wav2vec 2.0", "Wav2Vec2Model", "Wav2Vec2Config"),
    _speech("HuBERT", "HubertModel", "HubertConfig"),
    _speech("WavLM", "WavLMModel", "WavLMConfig"),
    _speech("UniSpeech", "UniSpeechModel", "UniSpeechConfig"),
    _speech("Data2Vec audio", "Data2VecAudioModel", "Data2VecAudioConfig", {**_WAVE, "conv_pos_kernel_size": 5}),
    Architecture(
        "AST",
        "speech",
        "ASTModel",
        "ASTConfig",
        {**_DEEP, "patch_size": 8, "max_length": 48, "num_mel_bins": 24, "frequency_stride": 8, "time_stride": 8},
        takes="input_values",
        shape=(1, 48, 24),
        base=(1, 1024, 128),
    ),
    _vision("ViT", "ViTModel", "ViTConfig", _IMAGE),
    _vision("DeiT", "DeiTModel", "DeiTConfig", _IMAGE),
    _vision("BEiT", "BeitModel", "BeitConfig", {**_IMAGE, "use_relative_position_bias": True}),
    _vision("DINOv2", "Dinov2Model", "Dinov2Config", {**_IMAGE, "mlp_ratio": 2}),
    _vision("CLIP vision", "CLIPVisionModel", "CLIPVisionConfig", _IMAGE),
    _vision("SigLIP vision", "SiglipVisionModel", "SiglipVisionConfig", _IMAGE),
    _vision("YOLOS", "YolosModel", "YolosConfig", {**_IMAGE, "image_size": [32, 32], "num_detection_tokens": 4}),
    _vision(
        "Swin",
        "SwinModel",
        "SwinConfig",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    _vision("ConvNeXt", "ConvNextModel", "ConvNextConfig", _STAGES, 64),
    _vision("ConvNeXt V2", "ConvNextV2Model", "ConvNextV2Config", _STAGES, 64),
    _vision("ResNet", "ResNetModel", "ResNetConfig", {**_STAGES, "embedding_size": 16}, 64),
    _vision("RegNet", "RegNetModel", "RegNetConfig", {**_STAGES, "embedding_size": 16, "groups_width": 8}, 64),
    _vision("MobileNet V1", "MobileNetV1Model", "MobileNetV1Config", {"depth_multiplier": 0.25, "image_size": 64}, 64),
    _vision("MobileNet V2", "MobileNetV2Model", "MobileNetV2Config", {"depth_multiplier": 0.35, "image_size": 64}, 64),
    _vision(
        "EfficientNet",
        "EfficientNetModel",
        "EfficientNetConfig",
        {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
        64,
    ),
    _vision(
        "SegFormer",
        "SegformerModel",
        "SegformerConfig",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "decoder_hidden_size": 32},
        64,
    ),
    _vision(
        "PVT",
        "PvtModel",
        "PvtConfig",
        {
            "image_size": 64,
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 16, 32, 32],
            "num_attention_heads": [1, 1, 2, 2],
        },
        64,
    ),
    _vision(
        "LeViT",
        "LevitModel",
        "LevitConfig",
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        64,
    ),
    _vision(
        "MobileViT",
        "MobileViTModel",
        "MobileViTConfig",
        {
            "image_size": 64,
            "patch_size": 2,
            "hidden_sizes": [32, 40, 48],
            "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 80],
        },
        64,
    ),
    _vision("PoolFormer", "PoolFormerModel", "PoolFormerConfig", _STAGES, 64),
    _vision("BiT", "BitModel", "BitConfig", {**_STAGES, "embedding_size": 16, "num_groups": 4}, 64),
    _vision("FocalNet", "FocalNetModel", "FocalNetConfig", {"image_size": 64, "embed_dim": 16, "depths": [1, 1]}, 64),
    _vision("MobileViT V2", "MobileViTV2Model", "MobileViTV2Config", {"image_size": 64, "width_multiplier": 0.25}, 64),
)


def build(architecture: Architecture, size: Size) -> nn.Module:
    """Return the architecture in eval mode with random weights that keep the scale of what passes through.

    The library's own are so small that a wrong layer would hardly show. It needs the transformers package.
    """
    import transformers

    arguments = architecture.small if size == "small" else {}
    config = getattr(transformers, architecture.config)(**arguments)
    model = getattr(transformers, architecture.model)(config).eval()
    randomize_(model)
    compiled = model.get_submodule(architecture.part)
    return _Answer(compiled, architecture.answer).eval() if architecture.answer else compiled


class _Answer(nn.Module):
    """One of the answers of a model over tokens."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[self.name]


def randomize_(model: nn.Module) -> None:
    """Draw all parameters anew: matrices with variance 1 / fan in, vectors small, scales around one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, max(1, parameter[0].numel()) ** -0.5)
            else:
                parameter.normal_(float(name.endswith("weight")), 0.1)


def example(architecture: Architecture, size: Size) -> dict[str, Tensor]:
    """Return keyword arguments for the architecture: random pictures or sounds, or tokens with a mask that sees all."""
    shape = architecture.shape if size == "small" else architecture.base
    if architecture.takes != "input_ids":
        return {architecture.takes: torch.randn(shape)}
    ids = torch.randint(3, 100, shape)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
