"""Reference networks with the parameter names of published checkpoints, and readers for the data that recipes use."""

from monstera.zoo.bert import bert_base, bert_tiny
from monstera.zoo.c3d import c3d
from monstera.zoo.cifar_resnet import cifar_resnet, load_cifar_resnet_state, resnet20, resnet32, resnet56
from monstera.zoo.digits_cnn import digits_cnn
from monstera.zoo.fused_mobilenet import fused_mobilenet
from monstera.zoo.gpt2 import GPT2Step, gpt2_step, gpt2_step_small
from monstera.zoo.gru_speech import gru_speech, gru_speech_small
from monstera.zoo.lenet import lenet5
from monstera.zoo.mobilenet import mobilenet_v2
from monstera.zoo.names import NETWORKS, network
from monstera.zoo.r2plus1d import r2plus1d_18
from monstera.zoo.randomize import calibrate_, randomize_
from monstera.zoo.resnet import resnet18, resnet50
from monstera.zoo.squeezenet import load_deep_compression_state, squeezenet1_0
from monstera.zoo.vgg import vgg16, vgg16_bn

__all__ = [
    "NETWORKS",
    "GPT2Step",
    "bert_base",
    "bert_tiny",
    "c3d",
    "calibrate_",
    "cifar_resnet",
    "digits_cnn",
    "fused_mobilenet",
    "gpt2_step",
    "gpt2_step_small",
    "gru_speech",
    "gru_speech_small",
    "lenet5",
    "load_cifar_resnet_state",
    "load_deep_compression_state",
    "mobilenet_v2",
    "network",
    "r2plus1d_18",
    "randomize_",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet50",
    "resnet56",
    "squeezenet1_0",
    "vgg16",
    "vgg16_bn",
]
