"""Pretrain foundation language models: one YAML is one run, and a run can be proved."""

import logging

# megatron-core imports torch.utils.cpp_extension, which says "No CUDA runtime is found, using CUDA_HOME" wherever a toolkit is
# installed and no GPU is there, such as in an export on a login node. Here, since every process of a run comes by.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
