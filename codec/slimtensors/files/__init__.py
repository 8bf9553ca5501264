"""What is done with whole files, folders and models: a module for each of the library's verbs."""
