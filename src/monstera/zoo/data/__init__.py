"""Readers for the data sets that recipes use. Nothing is ever downloaded."""

from monstera.zoo.data.cifar10 import cifar10
from monstera.zoo.data.digits import digits
from monstera.zoo.data.fashion_mnist import fashion_mnist
from monstera.zoo.data.imagenet_sample import imagenet_sample
from monstera.zoo.data.names import DATA_SETS, data_set
from monstera.zoo.data.pictures import Pictures, PictureSet, held_out
from monstera.zoo.data.root import DataMissingError, data_root

__all__ = [
    "DATA_SETS",
    "DataMissingError",
    "PictureSet",
    "Pictures",
    "cifar10",
    "data_root",
    "data_set",
    "digits",
    "fashion_mnist",
    "held_out",
    "imagenet_sample",
]
