"""A training step's passes as a CUDA graph: the CPU starts one thing instead of some hundred kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

# So that libraries have chosen and loaded what they run before it is recorded; torch's notes ask for three.
_WARM_UP = 3


@final
class GraphedBackward:
    """Forward and backward pass, recorded once and replayed at every call, on the weights as they are then.

    Weights may be edited in place between calls, not replaced. Buffers such as batch norms' statistics are moved by
    calls alone, not by the recording.

    Args:
        backward: takes images and labels, adds gradients up in the model's parameters and returns the loss; it may
            not ask for a value on the way.
        model: on a CUDA device.
        images, labels: a batch; all others have its shapes, types and memory layout.
    """

    def __init__(
        self, backward: Callable[[Tensor, Tensor], Tensor], model: nn.Module, images: Tensor, labels: Tensor
    ) -> None:
        self._images, self._labels = images.clone(), labels.clone()
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                model.zero_grad(set_to_none=True)
                backward(self._images, self._labels)
        torch.cuda.current_stream().wait_stream(side)
        model.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = backward(self._images, self._labels)
        # The graph writes into these, whatever was done to them in between.
        self._grads = [parameter.grad for parameter in self._parameters]
        for buffer, value in buffers:
            buffer.copy_(value)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch; parameters have its gradients and no others. The next call overwrites both."""
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        for parameter, grad in zip(self._parameters, self._grads, strict=True):
            parameter.grad = grad
        return self._loss
