"""`python -m ppokit`, the form that `accelerate launch -m` needs."""

from ppokit.cli import main

main()
