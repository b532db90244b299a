import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cdgm.data import mixtures
from experiments.harness import cli, errors
from experiments.harness.report import kept_table
from experiments.modes import __main__ as modes
from experiments.modes import arms, drawings, table, variance

SMALL = arms.Setting(width=4, depth=1, batch_size=4, latent=2, samples=16)
ARM = arms.Arm('non_saturating', 'none', 1, '1:1')


@pytest.fixture
def as_people_run_it(cheap_compilation):
    with (jax.enable_x64(False), jax.numpy_rank_promotion('allow'),
          cheap_compilation()):
        yield


def residual(values, factors):
    """Squares left by the least-squares fit of all that some sets of factors explain.

    Args:
      values: float[levels …, seeds].
      factors: sets of axes, each with an indicator column for every combination.
    """
    places = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing='ij'), -1
                      ).reshape(-1, values.ndim)
    columns = [np.ones((len(places), 1))]
    for axes in factors:
        code = np.ravel_multi_index(places[:, axes].T,
                                    [values.shape[axis] for axis in axes])
        columns.append(np.eye(code.max() + 1)[code])
    design = np.concatenate(columns, axis=1)
    fitted = design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]
    return np.sum((values.ravel() - fitted) ** 2)


def test_shares_are_those_of_least_squares():
    """An effect is what a fit gains by it, over all the effects of smaller sets."""
    values = np.random.default_rng(20).normal(size=(3, 2, 4, 5))
    values += np.arange(3.)[:, None, None, None] * np.arange(4.)[None, None, :, None]
    effects = variance.decompose(values, ('order', 'loss', 'penalty'))
    names = {'order': 0, 'loss': 1, 'penalty': 2}
    total = residual(values, [])
    for effect in effects[:-1]:
        axes = [names[factor] for factor in effect.factors]
        smaller = [list(below) for size in range(1, len(axes))
                   for below in itertools.combinations(axes, size)]
        gain = residual(values, smaller) - residual(values, [*smaller, axes])
        np.testing.assert_allclose(effect.eta2, gain / total, rtol=1e-8)
        assert effect.degrees == np.prod([values.shape[axis] - 1 for axis in axes])
    seeds = effects[-1]
    assert seeds.factors == () and seeds.degrees == 3 * 2 * 4 * 4
    np.testing.assert_allclose(seeds.eta2, residual(values, [[0, 1, 2]]) / total)
    np.testing.assert_allclose(sum(effect.eta2 for effect in effects), 1)
    assert effects[0].eta2 == max(effect.eta2 for effect in effects[:-1])


def test_a_table_made_by_hand():
    """Orders 0 and 2 apart by 2, losses by 4, seeds ± 1: squares 8, 32 and 8 of 48."""
    cells = np.array([[0., 4.], [2., 6.]])
    values = np.stack([cells - 1, cells + 1], axis=-1)
    loss, order, both, seeds = variance.decompose(values, ('order', 'loss'))
    assert [each.factors for each in (loss, order, both, seeds)] == [
        ('loss',), ('order',), ('order', 'loss'), ()]
    np.testing.assert_allclose([each.eta2 for each in (loss, order, both, seeds)],
                               [32 / 48, 8 / 48, 0, 8 / 48], atol=1e-12)
    # The mean square of the seeds is 8 / 4 = 2, and each effect has one degree.
    np.testing.assert_allclose([loss.omega2, order.omega2, both.omega2],
                               [30 / 50, 6 / 50, -2 / 50])


def test_noise_alone_explains_nothing_once_it_is_freed_of():
    values = np.random.default_rng(20).normal(size=(400, 3, 4, 5))
    shares = np.array([[effect.omega2 for effect in sorted(
        variance.decompose(each, ('a', 'b')))[1:]] for each in values])
    assert (abs(shares.mean(0)) < 4 * stats.sem(shares, axis=0)).all()


def test_the_jackknife_tells_the_spread():
    """Its errors are the spread of the share over tables that are drawn anew."""
    rng = np.random.default_rng(20)

    def share(values):
        first = variance.decompose(values, ('order',))[0]
        return first.eta2, first.error

    drawn = np.array([share(np.array([[0.], [1.]]) + rng.normal(size=(2, 20)))
                      for _ in range(300)])
    np.testing.assert_allclose(drawn[:, 1].mean(), drawn[:, 0].std(), rtol=0.15)


def test_differences_are_those_of_a_paired_test():
    values = np.random.default_rng(20).normal(size=(3, 2, 8))
    values[1] += 1.5
    levels = ('1:1', '5:1', '1:2')
    found = variance.differences(values, 0, levels, '1:1')
    assert [each.level for each in found] == ['5:1', '1:2']
    means = values.mean(axis=1)
    for each, mine in zip(found, means[1:]):
        np.testing.assert_allclose(each.mean / each.error,
                                   stats.ttest_rel(mine, means[0]).statistic)
    assert found[0].beyond
    tests = [stats.ttest_rel(values[1, cell], values[0, cell]).statistic
             for cell in range(2)]
    assert variance.share_beyond(values, 0, levels, '5:1', '1:1') == (
        sum(each > 2 for each in tests), sum(each < -2 for each in tests), 2)


@pytest.mark.parametrize('values, factors, message', [
    (np.zeros((2, 3)), ('a', 'b'), 'an axis each'),
    (np.zeros((2, 1)), ('a',), 'two seeds'),
    (np.full((2, 3), np.nan), ('a',), '6 of 6 values are not finite')])
def test_what_cannot_be_split_is_refused(values, factors, message):
    with pytest.raises(ValueError, match=message):
        variance.decompose(values, factors)


def made_up_rows():
    """Two orders, two losses, three seeds; the order is worth two modes."""
    rng = np.random.default_rng(20)
    for order, loss, seed in itertools.product(('1:1', '5:1'),
                                               ('non_saturating', 'hinge'), range(3)):
        found = 4 + 2 * (order == '5:1') + int(rng.integers(2))
        yield table.Row('ring', loss, 'none', 1, order, seed, 'flops', 100, 1.5,
                        'average', found, found / 8, 0.01, 0.5, 0.01, 0.2)


def test_a_report_names_what_explains_a_metric():
    rows = list(made_up_rows())
    levels, values = table.cells(rows, 'modes')
    assert levels == {'order': ('1:1', '5:1'), 'loss': ('non_saturating', 'hinge')}
    assert values[1, 0].tolist() == [
        row.modes for row in rows if row.order == '5:1' and row.loss != 'hinge']
    first, second, *rest = table.report(rows, 'modes')
    assert first.startswith('modes: mean') and second.split()[0] == 'order'
    difference, = (line for line in rest if 'order 5:1' in line)
    assert '*' in difference
    line = table.summary(rows, 8)[1]
    mine = [row.modes for row in rows if row.arm == rows[0].arm]
    assert f'{np.mean(mine):.1f} ± {stats.sem(mine):.1f}' in line


def test_cells_want_one_row_each():
    rows = list(made_up_rows())
    with pytest.raises(errors.SettingError, match='two rows of seed 0'):
        table.cells([*rows, rows[0]], 'modes')
    with pytest.raises(errors.SettingError, match='1 of 12 cells have no row'):
        table.cells(rows[1:], 'modes')


def test_seeds_that_a_table_lacks():
    rows = list(made_up_rows())
    assert table.missing_seeds(rows, 'ring', rows[0].arm, range(5)) == [3, 4]
    assert table.missing_seeds(rows, 'grid', rows[0].arm, range(2)) == [0, 1]


@pytest.mark.parametrize('order, updates', [
    ('5:1', (5, 1)), ('1:2', (1, 2)), ('extragradient', (1, 1))])
@pytest.mark.sample(1)
def test_an_iteration_moves_the_players_as_the_order_says(order, updates, key):
    arm = ARM._replace(order=order, packing=2)
    mixture = mixtures.ring()

    def run(key):
        state = arms.begin(arm, SMALL, key)
        step = arms.iterate(arm, SMALL, mixture, arms.build_game(arm, SMALL)[1])
        return state, step(state, key, 0.01)

    before, after = jax.jit(run)(key)
    for name, number in zip(('discriminator', 'generator'), updates):
        count, = (leaf for path, leaf in jax.tree_util.tree_leaves_with_path(
            after.opt_state[name]) if path[-1] == jax.tree_util.GetAttrKey('count'))
        assert count == number
        moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)),
                             before.params[name], after.params[name])
        assert all(jax.tree.leaves(moved))


def test_the_rate_falls_to_zero_on_a_branch_and_not_on_the_trunk():
    setting = SMALL._replace(cooling=0.25, learning_rate=2.)
    places = jnp.array([0, 59, 60, 70, 80])
    np.testing.assert_allclose(arms.rate_at(setting, places, jnp.float32(80.)),
                               [2, 2, 2, 1, 0], atol=1e-6)
    assert (arms.rate_at(setting, places, jnp.float32(jnp.inf)) == 2).all()
    assert (arms.rate_at(setting._replace(cooling=0.), places, jnp.float32(80.)) == 2
            ).all()


@pytest.mark.thorough
def test_samples_are_judged_seed_by_seed(key, as_people_run_it):
    mixture = mixtures.ring()
    perfect = mixtures.draw(mixture, key, 200)[0]
    one = jnp.broadcast_to(mixture.centres[:1], perfect.shape)
    found = arms.judge(jnp.stack([perfect, one, one * jnp.nan]), mixture.centres,
                       mixture.std)
    assert found.modes.tolist() == [8, 1, 0]
    assert found.high_quality[0] > 0.95 and found.high_quality[1:].tolist() == [1, 0]
    np.testing.assert_allclose(found.reverse_kl[1:], np.log(8), rtol=1e-5)
    assert found.sliced_wasserstein[0] < 0.3 < 0.5 < found.sliced_wasserstein[1]
    assert np.isfinite(found.sliced_wasserstein).all()


@pytest.fixture
def plan(tmp_path):
    def plan(*arguments):
        return modes.read_plan(cli.parse(modes.define_flags, [
            '--width=4', '--depth=1', '--batch_size=4', '--samples=16', '--seeds=2',
            '--orders=1:1',
            '--losses=non_saturating', '--penalties=none', '--steps=20',
            f'--out_dir={tmp_path}', *arguments]))
    return plan


@pytest.mark.thorough
def test_rows_of_a_moment_do_not_depend_on_the_others(plan, as_people_run_it):
    budget = 20 * arms.flops(ARM, plan().setting, mixtures.ring())
    once = modes.train(plan('--equal_iterations=7'), 'ring', ARM, [0, 1], budget)
    again = modes.train(plan('--equal_iterations=26'), 'ring', ARM, [0, 1], budget)
    kept, same = (table.select(rows, at='flops') for rows in (once, again))
    assert kept == same and len(kept) == 4 and kept[0].iterations == 20
    assert {row.iterations for row in table.select(once, at='iterations')} == {7}
    album = np.load(plan().folder / 'pictures/ring_non_saturating_none_1to1.npz')
    assert album['iterations'].tolist() == list(range(21))
    assert album['logits'].shape[1:] == (64, 64)


def test_a_packing_that_does_not_divide_the_minibatch_is_refused(plan):
    with pytest.raises(errors.SettingError, match='packs of 3'):
        plan('--packings=3')


def test_presets_are_what_flags_leave_out():
    values = cli.parse(modes.define_flags, ['--preset=best', '--seeds=2', '--seed=5'])
    plan = modes.read_plan(values)
    assert plan.seeds == [5, 6] and plan.setting == modes.PRESETS['best'].setting
    assert plan.arms == [arms.Arm('relativistic', 'r1+r2', 1, '1:1')]


def test_arms_are_shown_from_the_best_to_the_worst():
    rows = list(made_up_rows())
    chosen = drawings.choose(rows)
    assert len(chosen) == 4 and {arm.order for arm in chosen[:2]} == {'5:1'}


@pytest.mark.slow
def test_the_command_writes_table_and_figures(tmp_path, capsys, as_people_run_it):
    arguments = ['--width=8', '--steps=20', '--orders=1:1', '--orders=5:1',
                 '--penalties=none', f'--out_dir={tmp_path}']
    modes.main(cli.parse(modes.define_flags, [*arguments, '--seeds=2']))
    rows = kept_table.read_table(tmp_path / 'modes.csv', table.Row)
    assert len(rows) == 2 * 2 * 2 * 2 * 2  # losses, orders, seeds, moments, generators
    for arm in {row.arm for row in rows}:
        spent = {row.gflop for row in table.select(rows, at='flops') if row.arm == arm}
        np.testing.assert_allclose([*spent], rows[0].gflop, rtol=0.1)
    for name in ('heat_map.png', 'samples.png', 'histograms.png', 'densities.png',
                 'training.gif'):
        assert (tmp_path / f'ring_{name}').stat().st_size > 1000
    capsys.readouterr()
    modes.main(cli.parse(modes.define_flags, [*arguments, '--seeds=3']))
    assert '4/4 ring' in capsys.readouterr().out
    more = kept_table.read_table(tmp_path / 'modes.csv', table.Row)
    assert more[:len(rows)] == rows and len(more) == len(rows) * 3 // 2
