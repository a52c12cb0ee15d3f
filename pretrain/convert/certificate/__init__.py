"""Certificate room: an export is compared with the model that was trained."""
