"""Networks: the parameter names and counts that published checkpoints have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from monstera.zoo import NETWORKS, cifar_resnet, network

CIFAR, CLIP = (2, 3, 32, 32), (2, 3, 16, 112, 112)
INPUT = {
    "digits_cnn": (2, 1, 8, 8),
    "fused_mobilenet": (2, 1, 28, 28),
    "lenet5": (2, 1, 28, 28),
    "resnet20": CIFAR,
    "resnet32": CIFAR,
    "resnet56": CIFAR,
    "c3d": CLIP,
    "r2plus1d_18": CLIP,
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("vgg16", 138_357_544),
        ("vgg16_bn", 138_365_992),
        ("mobilenet_v2", 3_504_872),
        ("r2plus1d_18", 31_505_325),
        # 27.7 M in the convolutions, as the paper says; the rest is fc6 to fc8.
        ("c3d", 27_655_936 + 8193 * 4096 + 4097 * 4096 + 4097 * 487),
        # Three gates of two matrices and two biases, in two layers.
        ("gru_speech", 3 * 1024 * (153 + 3 * 1024 + 4)),
        ("squeezenet1_0", 1_248_424),
        # The encoder alone: no embeddings and no pooler.
        ("bert_base", 85_054_464),
        ("gpt2_step", 124_439_808),
        # C1, C3 with all maps connected, C5, F6 and a linear output.
        ("lenet5", 156 + 2416 + 48_120 + 10_164 + 850),
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet56", 853_018),
    ],
)
def test_a_network_has_as_many_parameters_as_the_published_one(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = network(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_half_as_many_channels_are_about_a_quarter_of_the_weights() -> None:
    whole, half = network("resnet20"), network("resnet20", width=8)
    assert half.state_dict()["layer3.0.conv1.weight"].shape == (32, 16, 3, 3)
    assert half(torch.empty(1, *CIFAR[1:])).shape == (1, 10)
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (whole, half)]
    assert 0.25 < sizes[1] / sizes[0] < 0.26
    with pytest.raises(ValueError, match="width: expected at least 1 channel, got 0"):
        cifar_resnet(20, width=0)


@pytest.mark.parametrize(("name", "gmacs"), [("c3d", 38.55), ("r2plus1d_18", 40.52)])
def test_a_network_for_clips_does_as_much_arithmetic_as_the_published_one(name: str, gmacs: float) -> None:
    macs: list[int] = []

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv3d | nn.Linear)
        macs.append(module.weight.numel() * output.numel() // len(module.weight))

    with torch.device("meta"):
        model = network(name).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                module.register_forward_hook(count)
        model(torch.empty(1, *CLIP[1:]))
    assert round(sum(macs) / 1e9, 2) == gmacs


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (
            "r2plus1d_18",
            {
                "stem.0.weight": (45, 3, 1, 7, 7),
                "stem.3.weight": (64, 45, 3, 1, 1),
                "stem.4.running_var": (64,),
                "layer1.0.conv1.0.0.weight": (144, 64, 1, 3, 3),
                "layer1.0.conv1.0.1.bias": (144,),
                "layer1.0.conv1.0.3.weight": (64, 144, 3, 1, 1),
                "layer1.0.conv1.1.weight": (64,),
                "layer2.0.conv1.0.0.weight": (230, 64, 1, 3, 3),
                "layer2.0.conv2.0.0.weight": (230, 128, 1, 3, 3),
                "layer2.0.downsample.0.weight": (128, 64, 1, 1, 1),
                "layer2.0.downsample.1.running_mean": (128,),
                "layer4.1.conv2.0.3.weight": (512, 1152, 3, 1, 1),
                "layer4.1.conv2.1.num_batches_tracked": (),
                "fc.weight": (400, 512),
            },
        ),
        (
            "resnet18",
            {
                "conv1.weight": (64, 3, 7, 7),
                "layer1.0.bn2.running_var": (64,),
                "layer2.0.downsample.0.weight": (128, 64, 1, 1),
                "layer2.0.downsample.1.num_batches_tracked": (),
                "layer4.1.conv2.weight": (512, 512, 3, 3),
                "fc.bias": (1000,),
            },
        ),
        (
            "resnet50",
            {
                "layer1.0.downsample.0.weight": (256, 64, 1, 1),
                "layer3.5.conv2.weight": (256, 256, 3, 3),
                "layer4.2.bn3.weight": (2048,),
                "fc.weight": (1000, 2048),
            },
        ),
        (
            "vgg16",
            {
                "features.28.weight": (512, 512, 3, 3),
                "classifier.0.weight": (4096, 25088),
                "classifier.6.bias": (1000,),
            },
        ),
        ("vgg16_bn", {"features.40.weight": (512, 512, 3, 3), "features.41.running_mean": (512,)}),
        (
            "mobilenet_v2",
            {
                "features.0.0.weight": (32, 3, 3, 3),
                "features.1.conv.0.0.weight": (32, 1, 3, 3),
                "features.1.conv.1.weight": (16, 32, 1, 1),
                "features.2.conv.1.0.weight": (96, 1, 3, 3),
                "features.17.conv.3.running_var": (320,),
                "features.18.1.bias": (1280,),
                "classifier.1.weight": (1000, 1280),
            },
        ),
    ],
)
def test_parameters_are_called_and_shaped_as_in_torchvision(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    with torch.device("meta"):
        state = network(name).state_dict()
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith(("gru", "bert", "gpt2"))])
def test_a_network_maps_pictures_to_its_classes(name: str) -> None:
    with torch.device("meta"):
        model = network(name, classes=7).eval()
        assert model(torch.empty(INPUT.get(name, (2, 3, 64, 96)))).shape == (2, 7)


@pytest.mark.parametrize(("name", "hidden"), [("gru_speech", 1024), ("gru_speech_small", 48)])
def test_a_recurrent_network_maps_frames_of_features_to_states(name: str, hidden: int) -> None:
    with torch.device("meta"):
        model = network(name).eval()
        assert model(torch.empty(2, 100, 153)).shape == (2, 100, hidden)
    assert [name for name, _ in model.named_parameters()][:4:3] == ["gru.weight_ih_l0", "gru.bias_hh_l0"]


def test_an_encoder_maps_tokens_to_tokens_and_has_the_names_of_the_checkpoints() -> None:
    with torch.device("meta"):
        model = network("bert_tiny").eval()
        assert model(torch.empty(2, 9, 48)).shape == (2, 9, 48)
        theirs = BertModel(BertConfig()).encoder.state_dict()
        ours = network("bert_base").state_dict()
    assert {name: w.shape for name, w in ours.items()} == {name: w.shape for name, w in theirs.items()}


def test_the_encoder_computes_what_transformers_does() -> None:
    config = BertConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)
    theirs, ours, x = BertModel(config).encoder.eval(), network("bert_tiny").eval(), torch.randn(2, 9, 48)
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).last_hidden_state)


def test_a_step_of_gpt2_computes_what_transformers_does_and_has_the_names_of_the_checkpoints() -> None:
    config = GPT2Config(vocab_size=101, n_embd=48, n_layer=2, n_head=3)
    theirs, ours = GPT2LMHeadModel(config).eval(), network("gpt2_step_small").eval()
    turned = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
    state = {name: w.T if name.endswith(turned) else w for name, w in theirs.state_dict().items()}
    ours.load_state_dict(state)
    ids, kept = torch.randint(0, 101, (2, 6)), torch.full((2, 2, 2, 3, 9, 16), torch.nan)
    with torch.no_grad():
        expected = theirs(ids).logits
        for place in range(6):
            keys, values = kept.nan_to_num()
            logits, *new = ours(ids[:, place : place + 1], torch.tensor([place]), keys, values)
            kept[:, :, :, :, place] = torch.stack(new)[:, :, :, :, 0]
            torch.testing.assert_close(logits[:, 0], expected[:, place])


def test_c3d_is_the_network_of_the_paper() -> None:
    with torch.device("meta"):
        state = network("c3d").state_dict()
    widths = {"1": 64, "2": 128, "3a": 256, "3b": 256, "4a": 512, "4b": 512, "5a": 512, "5b": 512}
    assert {name: state[f"conv{name}.weight"].shape[0] for name in widths} == widths
    assert all(state[f"conv{name}.weight"].shape[2:] == (3, 3, 3) for name in widths)
    assert [tuple(state[f"fc{n}.weight"].shape) for n in (6, 7, 8)] == [(4096, 8192), (4096, 4096), (487, 4096)]
    assert len(state) == 2 * 11


def test_the_strides_of_resnet50_stand_at_the_3x3_convolutions() -> None:
    with torch.device("meta"):
        convolutions = {name: m for name, m in network("resnet50").named_modules() if isinstance(m, nn.Conv2d)}
    assert [name for name, m in convolutions.items() if m.stride == (2, 2) and ".conv" in name] == [
        "layer2.0.conv2",
        "layer3.0.conv2",
        "layer4.0.conv2",
    ]


def test_blocks_of_the_fused_mobilenet_are_dense_and_have_the_names_of_mobilenet_v2() -> None:
    with torch.device("meta"):
        model = network("fused_mobilenet", channels=3, width=8, blocks=(1, 2), activation="relu6")
        shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters() if weight.dim() > 1}
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == {
        "features.0.0.weight": (8, 3, 3, 3),
        "features.1.conv.0.weight": (8, 8, 3, 3),
        "features.2.conv.0.weight": (16, 8, 3, 3),
        "features.3.conv.0.weight": (16, 16, 3, 3),
        "features.4.0.weight": (32, 16, 1, 1),
        "classifier.weight": (10, 32),
    }
    with pytest.raises(ValueError, match=r"at least one block, .*blocks=\[2, 0\]"):
        network("fused_mobilenet", blocks=(2, 0))
    with pytest.raises(ValueError, match="no activation is called 'gelu'; known: silu, relu6"):
        network("fused_mobilenet", activation="gelu")


def test_an_unknown_network_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"'resnet21'.*known: .*resnet18, resnet20"):
        network("resnet21")


def test_an_option_the_builder_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"resnet20.*'colour'"):
        network("resnet20", colour=3)


def test_a_cifar_resnet_of_impossible_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"6n \+ 2 layers.*not 21"):
        cifar_resnet(21)
