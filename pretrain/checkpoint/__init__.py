"""Checkpoint room: checkpointing beside the training, into a directory per step that is complete or not there.

A tensor is spread over ranks and files. ``Box`` (disk/boxes.py) is a block of a whole tensor, numbers only: where it starts and
how large it is. ``Piece`` (model/placement.py) is a block of rows of a local parameter, and where it lies in the whole tensor.
``OwnedRange`` (optim/states.py) is the flat range of a local parameter whose master values and states this rank's optimizer
keeps. ``LocalBox`` (content.py) is a box with its values in this rank's memory, ``StoredBox`` (disk/tensor_index.py) is a box
with the number of the file that holds it, and ``Span`` (disk/tensors.py) is a run of elements that lie without a gap in that
file. Saving cuts owned ranges by pieces into local boxes, and writes each as a stored box.
"""
