"""Single operations of the model, each with one definition in plain torch (reference.py) and the version that trains.

Nothing here knows about ranks, configs or megatron-core: tensors go in, tensors come out.
"""

# Keep this below 0.5. A Hugging Face package has the same import name, and transformers looks for it by name and
# version: a version of 0.5 or more would make transformers call functions that this package does not have.
__version__ = "0.1.0"
