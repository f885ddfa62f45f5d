"""`python -m s2l_ray`: the same as the command `s2l`."""

from s2l_ray.cli import main

main()
