"""What a step costs, side by side with what people use: `python -m benchmarks.NAME`.

    step_cost    a step of one block: cdgm, closures by hand, optax recipes
    sweep_cost   visits, cycles and scanned runs, against joint training
    peers        PyTorch, BAdam, jaxopt
    seeds        seeds and trials in one program, against one at a time
    compile      compile time of many blocks, and what a cache saves
    memory       deep stacks by layers: bytes and time, BAdam, the device at hand

Each prints a table and writes benchmarks/results/NAME.json; `--quick` only shows that
it runs. `python -m benchmarks` runs all.
"""
