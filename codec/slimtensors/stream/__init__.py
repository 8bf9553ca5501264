"""Tensors one after another, decoded ahead in the background: of one file or many, whole or in part."""
