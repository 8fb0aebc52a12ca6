"""The networks by name, for recipes and commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from monstera.zoo.bert import bert_base, bert_tiny
from monstera.zoo.c3d import c3d
from monstera.zoo.cifar_resnet import resnet20, resnet32, resnet56
from monstera.zoo.digits_cnn import digits_cnn
from monstera.zoo.fused_mobilenet import fused_mobilenet
from monstera.zoo.gpt2 import gpt2_step, gpt2_step_small
from monstera.zoo.gru_speech import gru_speech, gru_speech_small
from monstera.zoo.lenet import lenet5
from monstera.zoo.mobilenet import mobilenet_v2
from monstera.zoo.r2plus1d import r2plus1d_18
from monstera.zoo.resnet import resnet18, resnet50
from monstera.zoo.squeezenet import squeezenet1_0
from monstera.zoo.vgg import vgg16, vgg16_bn

NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "bert_base": bert_base,
    "bert_tiny": bert_tiny,
    "c3d": c3d,
    "digits_cnn": digits_cnn,
    "fused_mobilenet": fused_mobilenet,
    "gpt2_step": gpt2_step,
    "gpt2_step_small": gpt2_step_small,
    "gru_speech": gru_speech,
    "gru_speech_small": gru_speech_small,
    "lenet5": lenet5,
    "mobilenet_v2": mobilenet_v2,
    "r2plus1d_18": r2plus1d_18,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet50": resnet50,
    "resnet56": resnet56,
    "squeezenet1_0": squeezenet1_0,
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
}


def network(name: str, **options: Any) -> nn.Module:
    """Build the network called `name`, in training mode, with fresh weights from torch's global generator.

    Args:
        options: what the builder takes, such as `classes`.

    Raises:
        ValueError: no network has this name, or it does not take these options.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network is called {name!r}; known: {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](**options)
    except TypeError as error:
        raise ValueError(f"network {name!r} does not take the options {sorted(options)}: {error}") from None
