"""Structure that a tensor hides, found on samples and proved before it is used."""
