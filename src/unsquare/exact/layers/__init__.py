"""Layers of PyTorch's and timm's whose exact forms are laid over them."""
