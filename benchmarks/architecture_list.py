"""Architectures of the `transformers` library with random weights, each small enough to compile in seconds or as the
library has it, and what one calls them with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Kind: TypeAlias = Literal["encoder", "decoder", "vision", "speech"]
Size: TypeAlias = Literal["small", "base"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture: `model` is a class of the library, whose config takes the arguments `small` for the small size.

    Attributes:
        part: the path of the module that is compiled, for instance "encoder"; the whole model if empty.
        answer: the only answer that is compiled, for instance "last_hidden_state"; all of them if empty.
        unread: a module that no answer is made of, and that gets no holes.
        takes: the name of the input; "input_ids" are numbers of tokens and come with a mask.
        shape: of the input for the small size, batch first.
        base: of the input for the library's own config.
    """

    name: str
    kind: Kind
    model: str
    small: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    answer: str = ""
    unread: str = ""
    takes: str = "input_ids"
    shape: tuple[int, ...] = (1, 32)
    base: tuple[int, ...] = (1, 128)


_DEEP = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_WORDS = {"vocab_size": 101, "max_position_embeddings": 64}
_TEXT = {**_DEEP, **_WORDS}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_GPT = {"vocab_size": 101, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4}
# The numbers of special tokens lie outside of so small a vocabulary where they are not set.
_ENDS = {"bos_token_id": 1, "eos_token_id": 1}
_BOTH = {"d_model": 64, "encoder_layers": 2, "encoder_ffn_dim": 128, "encoder_attention_heads": 4}
_BOTH |= {"decoder_layers": 1, "decoder_ffn_dim": 128, "decoder_attention_heads": 4}
_T5 = {"vocab_size": 101, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
_IMAGE = {**_DEEP, "image_size": 32, "patch_size": 8}
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 48]}
_PYRAMID = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32]}
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
_SPECTRUM = {"patch_size": 8, "max_length": 48, "num_mel_bins": 24, "frequency_stride": 8, "time_stride": 8}
_WHISPER = {"num_mel_bins": 16, "max_source_positions": 32, "vocab_size": 101, "pad_token_id": 0, "bos_token_id": 1}
_WHISPER |= {"eos_token_id": 2, "decoder_start_token_id": 1}


def _encoder(name: str, model: str, small: Mapping[str, Any] = _TEXT, **more: Any) -> Architecture:
    return Architecture(name, "encoder", model, {**small, **more})


def _decoder(name: str, model: str, small: Mapping[str, Any] = _TEXT, **more: Any) -> Architecture:
    return Architecture(name, "decoder", model, {**small, "use_cache": False, **more})


def _vision(name: str, model: str, pixels: int, small: Mapping[str, Any], **more: Any) -> Architecture:
    shape, base = (1, 3, pixels, pixels), (1, 3, 224, 224)
    return Architecture(name, "vision", model, {**small, **more}, takes="pixel_values", shape=shape, base=base)


def _speech(name: str, model: str, **more: Any) -> Architecture:
    small = {**_WAVE, **more}
    return Architecture(name, "speech", model, small, takes="input_values", shape=(1, 1600), base=(1, 16000))


ARCHITECTURES = (
    _encoder("BERT", "BertModel"),
    _encoder("RoBERTa", "RobertaModel"),
    _encoder("XLM-RoBERTa", "XLMRobertaModel"),
    _encoder("CamemBERT", "CamembertModel"),
    _encoder("DistilBERT", "DistilBertModel", _WORDS, dim=64, n_layers=2, n_heads=4, hidden_dim=128),
    _encoder("ALBERT", "AlbertModel", embedding_size=32),
    _encoder("ELECTRA", "ElectraModel", embedding_size=32),
    _encoder("MPNet", "MPNetModel"),
    _encoder("MobileBERT", "MobileBertModel", embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32),
    _encoder("SqueezeBERT", "SqueezeBertModel", embedding_size=64),
    _encoder("DeBERTa", "DebertaModel", **_DISENTANGLED),
    _encoder("DeBERTa-v2", "DebertaV2Model", **_DISENTANGLED),
    _encoder("LayoutLM", "LayoutLMModel"),
    _encoder("RoFormer", "RoFormerModel"),
    _encoder("ModernBERT", "ModernBertModel", **_ENDS, pad_token_id=0, cls_token_id=1, sep_token_id=1),
    _encoder("ERNIE", "ErnieModel"),
    _encoder("Data2Vec text", "Data2VecTextModel"),
    _encoder("BERT generation", "BertGenerationEncoder"),
    Architecture("ESM", "encoder", "EsmModel", {**_TEXT, "mask_token_id": 5, "pad_token_id": 1}, unread="contact_head"),
    _encoder("Nyströmformer", "NystromformerModel"),
    _encoder("FNet", "FNetModel"),
    _encoder("T5 encoder", "T5EncoderModel", _T5),
    Architecture("BART encoder", "encoder", "BartModel", {**_WORDS, **_BOTH}, part="encoder"),
    # Its pooled answer is the token with the largest number, which is found by argmax.
    Architecture("CLIP text", "encoder", "CLIPTextModel", {**_TEXT, "eos_token_id": 2}, answer="last_hidden_state"),
    _encoder("SigLIP text", "SiglipTextModel"),
    _decoder("GPT-2", "GPT2LMHeadModel", _GPT, **_ENDS),
    _decoder("OPT", "OPTForCausalLM", ffn_dim=128, word_embed_proj_dim=64),
    _decoder(
        "GPT-Neo",
        "GPTNeoForCausalLM",
        {**_WORDS, **_ENDS},
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        # Wider than the padding: fp32 and float64 differ where a query sees nothing.
        window_size=16,
        intermediate_size=128,
    ),
    _decoder("GPT-NeoX", "GPTNeoXForCausalLM"),
    _decoder("GPT-J", "GPTJForCausalLM", _GPT, **_ENDS, rotary_dim=8),
    _decoder("LLaMA", "LlamaForCausalLM", _GROUPED),
    _decoder("Mistral", "MistralForCausalLM", _GROUPED),
    _decoder("Qwen2", "Qwen2ForCausalLM", _GROUPED),
    _decoder("Qwen3", "Qwen3ForCausalLM", _GROUPED, head_dim=16),
    _decoder("Phi", "PhiForCausalLM", _GROUPED),
    _decoder("Phi-3", "Phi3ForCausalLM", _GROUPED, pad_token_id=0),
    _decoder("Gemma", "GemmaForCausalLM", _GROUPED, head_dim=16),
    _decoder("Gemma 2", "Gemma2ForCausalLM", _GROUPED, head_dim=16),
    _decoder("Falcon", "FalconForCausalLM"),
    _decoder("BLOOM", "BloomForCausalLM", {"vocab_size": 101, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    _decoder("StableLM", "StableLmForCausalLM", _GROUPED),
    _decoder("OLMo", "OlmoForCausalLM", _GROUPED),
    _decoder("StarCoder2", "Starcoder2ForCausalLM", _GROUPED),
    _decoder("Cohere", "CohereForCausalLM", _GROUPED),
    Architecture(
        "Whisper encoder",
        "speech",
        "WhisperModel",
        {**_BOTH, **_WHISPER},
        part="encoder",
        takes="input_features",
        shape=(1, 16, 64),
        base=(1, 80, 3000),
    ),
    _speech("wav2vec 2.0", "Wav2Vec2Model"),
    _speech("HuBERT", "HubertModel"),
    _speech("WavLM", "WavLMModel"),
    _speech("UniSpeech", "UniSpeechModel"),
    _speech("Data2Vec audio", "Data2VecAudioModel", conv_pos_kernel_size=5),
    Architecture(
        "AST",
        "speech",
        "ASTModel",
        {**_DEEP, **_SPECTRUM},
        takes="input_values",
        shape=(1, 48, 24),
        base=(1, 1024, 128),
    ),
    _vision("ViT", "ViTModel", 32, _IMAGE),
    _vision("DeiT", "DeiTModel", 32, _IMAGE),
    _vision("BEiT", "BeitModel", 32, _IMAGE, use_relative_position_bias=True),
    _vision("DINOv2", "Dinov2Model", 32, _IMAGE, mlp_ratio=2),
    _vision("CLIP vision", "CLIPVisionModel", 32, _IMAGE),
    _vision("SigLIP vision", "SiglipVisionModel", 32, _IMAGE),
    _vision("YOLOS", "YolosModel", 32, {**_IMAGE, "image_size": [32, 32]}, num_detection_tokens=4),
    _vision(
        "Swin",
        "SwinModel",
        32,
        {"image_size": 32, "patch_size": 2},
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    _vision("ConvNeXt", "ConvNextModel", 64, _STAGES),
    _vision("ConvNeXt V2", "ConvNextV2Model", 64, _STAGES),
    _vision("ResNet", "ResNetModel", 64, _STAGES, embedding_size=16),
    _vision("RegNet", "RegNetModel", 64, _STAGES, embedding_size=16, groups_width=8),
    _vision("MobileNet V1", "MobileNetV1Model", 64, {"image_size": 64}, depth_multiplier=0.25),
    _vision("MobileNet V2", "MobileNetV2Model", 64, {"image_size": 64}, depth_multiplier=0.35),
    _vision(
        "EfficientNet",
        "EfficientNetModel",
        64,
        {"image_size": 64},
        width_coefficient=0.25,
        depth_coefficient=0.3,
        hidden_dim=320,
    ),
    _vision("SegFormer", "SegformerModel", 64, _PYRAMID, decoder_hidden_size=32),
    _vision("PVT", "PvtModel", 64, _PYRAMID, image_size=64, num_attention_heads=[1, 1, 2, 2]),
    _vision(
        "LeViT",
        "LevitModel",
        64,
        {"image_size": 64},
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    _vision(
        "MobileViT",
        "MobileViTModel",
        64,
        {"image_size": 64, "patch_size": 2},
        hidden_sizes=[32, 40, 48],
        neck_hidden_sizes=[8, 8, 16, 24, 32, 40, 80],
    ),
    _vision("PoolFormer", "PoolFormerModel", 64, _STAGES),
    _vision("BiT", "BitModel", 64, _STAGES, embedding_size=16, num_groups=4),
    _vision("FocalNet", "FocalNetModel", 64, {"image_size": 64}, embed_dim=16, depths=[1, 1]),
    _vision("MobileViT V2", "MobileViTV2Model", 64, {"image_size": 64}, width_multiplier=0.25),
)


def build(architecture: Architecture, size: Size) -> nn.Module:
    """Return the architecture in eval mode with random weights that keep the scale of what passes through.

    The library's own are so small that a wrong layer would hardly show. It needs the transformers package.
    """
    import transformers

    kind = getattr(transformers, architecture.model)
    model = kind(kind.config_class(**(architecture.small if size == "small" else {}))).eval()
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
    """Draw all parameters anew: matrices with variance 1 / fan in, vectors small, scales around one.

    Batch norms get statistics that differ from channel to channel, as new ones do nothing that one would miss.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, max(1, parameter[0].numel()) ** -0.5)
            else:
                parameter.normal_(float(name.endswith("weight")), 0.1)
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)


def example(architecture: Architecture, size: Size) -> dict[str, Tensor]:
    """Return keyword arguments for the architecture: random pictures or sounds, or tokens of which the last quarter is
    padding, which the mask hides.
    """
    shape = architecture.shape if size == "small" else architecture.base
    if architecture.takes != "input_ids":
        return {architecture.takes: torch.randn(shape)}
    ids = torch.randint(3, 100, shape)
    mask = torch.ones_like(ids)
    mask[:, shape[1] - shape[1] // 4 :] = 0
    return {"input_ids": ids, "attention_mask": mask}
