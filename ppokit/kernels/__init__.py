"""Fast paths that compute the same numbers as the plain model; `ppokit.kernels.registry` lists them."""
