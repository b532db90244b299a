"""Mode collapse in the plane: how much of it is the order of the updates?

    ./launch.sh modes                       # ring, 16 arms, 3 seeds: 5 minutes
    ./launch.sh modes --preset=best         # one arm, 10 seeds, ring and grid
    ./launch.sh modes --preset=table        # the whole table of docs/gan.md
    ./launch.sh modes --losses=hinge --orders=1:1 --orders=5:1 --seeds=2

GANs learn eight Gaussians on a ring or twenty-five on a grid: every loss under every
order of updates and every penalty, all seeds in one program. Each arm is trained until
it has spent the FLOPs that --steps iterations of the plainest arm take (1:1, non-
saturating, no penalty), and looked at also after --equal_iterations; both rows are in
the table, for the last generator and for its average. Then the table is taken apart:
the share of its variance that is due to order, loss and penalty.

Rows that --out_dir has already are not trained again, so an interrupted command goes
on where it was. It writes modes.csv, variance.txt and the figures.

    arms       what is trained, and how it is judged
    table      its rows, kept in a file that grows
    variance   what explains them
    drawings   figures and an animation
"""
