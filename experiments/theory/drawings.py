"""Figures of the theory: paths of games, and how fast each order minimises."""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import cdgm
from cdgm.selection import gauss_southwell
from experiments.harness.report import figures
from experiments.theory import dirac, games, minimisation

STEP = 0.3


def draw(folder: Path) -> None:
    """Write bilinear_paths.png, dirac_paths.png and orders.png."""
    draw_paths(folder / 'bilinear_paths.png', ('x', 'y'), {
        name: games.path(name, STEP, 120) for name in games.DYNAMICS})
    draw_paths(folder / 'dirac_paths.png', ('theta', 'psi'), {
        name: dirac.path(how, dirac.MINIMAX, STEP, 200)
        for name, how in games.DYNAMICS.items()})
    draw_orders(folder / 'orders.png')


def draw_paths(file: Path, axes: tuple[str, str], paths) -> None:
    """Draw a panel for each path, and their distances from (0, 0) in the last one."""
    figure, panels = plt.subplots(2, 4, figsize=(11, 5.6))
    *each, last = panels.flat
    colours = (*figures.COLOURS, 'black')
    for panel, (name, points), colour in zip(each, paths.items(), colours):
        panel.plot(*points.T, color=colour, linewidth=0.8, marker='.', markersize=3)
        panel.plot(0, 0, marker='+', color='black', markersize=8)
        panel.set(title=name, xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect='equal',
                  xlabel=axes[0], ylabel=axes[1])
        last.semilogy(np.linalg.norm(points, axis=1), color=colour)
    last.set(title='distance from (0, 0)', xlabel='steps', ylim=(1e-4, 1e2))
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)


def draw_orders(file: Path) -> None:
    """Draw f under every order on the Sun-Ye problem and on a random one."""
    size, cycles = minimisation.CYCLE, 150
    problems = {f'Sun-Ye, c = 0.9, n = {size}': minimisation.sun_ye(size, 0.9),
                f'random, n = {size}': minimisation.random_quadratic(size)}
    once, key = (1,) * size, jax.random.key(0)
    schedules = {'cyclic': cdgm.cyclic(once), 'shuffled': cdgm.shuffled(once, key),
                 'uniform': cdgm.uniform(size, key)}
    greedy = gauss_southwell(size, refresh=1)
    start = np.random.default_rng(3).normal(size=size)
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for panel, length, (title, matrix) in zip(panels, (cycles, 40), problems.items()):
        weights = tuple(np.diag(matrix) / np.trace(matrix))
        own = {**schedules, 'Lipschitz-weighted': cdgm.uniform(size, key, weights)}
        curves = {name: minimisation.scheduled_values(schedule, cycles, matrix, start)
                  for name, schedule in own.items()}
        curves['Gauss-Southwell'] = minimisation.driven_values(
            greedy, cycles * size, matrix, start)[::size]
        for name, values in curves.items():
            # Dashed, because with equal curvatures it is the uniform order.
            style = '--' if name == 'Lipschitz-weighted' else '-'
            panel.semilogy(values / values[0], style, label=name)
        panel.set(title=title, xlabel='cycles (n exact coordinate steps)',
                  xlim=(0, length), ylim=(1e-10, 1))
    panels[0].set_ylabel('f / f at the start')
    panels[1].legend()
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)
