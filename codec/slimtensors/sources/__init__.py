"""What tensors come from: files of others, models of many files, arrays in memory."""
