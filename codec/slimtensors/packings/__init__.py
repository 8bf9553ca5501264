"""Quantised weights as libraries pack them into .safetensors files, and the numbers that they stand for."""
