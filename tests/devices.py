"""What a test needs of the machine."""

import pytest
import torch

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
