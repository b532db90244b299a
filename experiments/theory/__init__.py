"""Theory: what is known of coordinate descent and of games, measured on this library.

    ./launch.sh theory
    ./launch.sh theory --out_dir=runs/theory    # and theory.csv, .json, .png

Every row runs descents, schedules, rules, moves and dynamics of `cdgm` in float64 and
compares what they do with a closed form. A row that fails makes the exit status 1.

    rows          what a row is, and the table          minimisation   one loss
    spectra       a step as a matrix                    latent         linear models
    drawings      figures                               games, dirac   two losses
"""

from experiments.theory import dirac, games, latent, minimisation

# Functions () -> Row; the test suite runs the same ones.
ROWS = (*minimisation.ROWS, *latent.ROWS, *games.ROWS, *dirac.ROWS)
