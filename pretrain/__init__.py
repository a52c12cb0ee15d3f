"""Pretrain foundation language models: one YAML is one run, and a run can be proved."""

import logging

from pretrain.parallel.quick_imports import compile_at_first_call

# megatron-core imports torch.utils.cpp_extension, which says "No CUDA runtime is found, using CUDA_HOME" wherever a toolkit is
# installed and no GPU is there, such as in an export on a login node. Here, since every process of a run comes by.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
compile_at_first_call()  # here for the same reason, and before anyone imports megatron-core
