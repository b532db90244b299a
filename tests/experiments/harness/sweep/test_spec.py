"""Sweeps: read from TOML, all errors found at once, the same when read back."""

import itertools
import os

import pytest

from cdgm.data import DATASETS
from experiments import gan, vae
from experiments.harness import block_choice, cli, registry
from experiments.harness.errors import SettingError
from experiments.harness.sweep import spec
from experiments.harness.sweep.trial_id import identity
from experiments.harness.training_flags import NON_IDENTITY_FLAGS

HEAD = "title = 'T'\n"
TABLE = '''
[[table]]
title = 'A'
experiment = 'vae'
metric = 'neg_elbo'
label = 'nats'
'''


@pytest.fixture
def read(tmp_path):
    """(TOML, *overrides) -> the sweep."""
    def read(text, *overrides):
        path = tmp_path / 'some.toml'
        path.write_text(text, encoding='utf-8')
        return spec.read(path, overrides)
    return read


def arguments(made):
    return [trial.arguments for trial in made.trials]


def names(made):
    return [row.name for row in made.tables[0].rows]


def test_a_table_alone_is_one_trial_of_defaults(read):
    made = read(HEAD + TABLE)
    trial, = made.trials
    values = cli.parse(vae.define_flags, [])
    assert trial == ('vae', (), identity('vae', values))
    assert trial.folder == f'vae-{trial.id}'
    assert made == ('some', 'T', '', (trial,), ((
        'A', '', 'vae', 'neg_elbo', 'nats', (('vae', {'': (trial.id,)}),)),))


def test_trials_are_list_by_zip_by_product(read):
    made = read(HEAD + TABLE + '''
about = 'B'
flags = {epochs = 2}
list = [{order = 'joint'}, {order = 'decoder,encoder', fresh_minibatches = true}]
zip = {hidden = [8, [4, 2]], latent = [3, 2]}
product = {beta = [0.5, 1], seed = [0, 1, 2]}''')
    assert arguments(made) == [
        ('--epochs=2', *entry, *step, f'--beta={beta}', f'--seed={seed}')
        for entry, step, beta, seed in itertools.product(
            [('--order=joint',), ('--order=decoder,encoder', '--fresh_minibatches')],
            [('--hidden=8', '--latent=3'), ('--hidden=4', '--hidden=2', '--latent=2')],
            ['0.5', '1'], range(3))]
    table, = made.tables
    assert table.about == 'B' and [row.name for row in table.rows] == [
        f'{entry}, {step}, beta={beta}' for entry, step, beta in itertools.product(
            ['order=joint, nofresh_minibatches',
             'order=decoder,encoder, fresh_minibatches'],
            ['hidden=8, latent=3', 'hidden=4,2, latent=2'], ['0.5', '1'])]
    ids = [trial.id for trial in made.trials]
    assert [row.variants for row in table.rows] == [
        {'': tuple(ids[at:at + 3])} for at in range(0, 24, 3)]


def test_numbers_stay_as_written(read):
    made = read(HEAD + TABLE + 'product = {learning_rate = [1e-3, 3e-03]}')
    assert arguments(made) == [('--learning_rate=1e-3',), ('--learning_rate=3e-03',)]


def test_tuned_flags_make_variants_and_no_rows(read):
    made = read(HEAD + TABLE + '''
tune = ['learning_rate', 'fresh_minibatches']
list = [{order = 'joint', learning_rate = 1e-2}, {order = 'decoder,encoder'}]
product = {fresh_minibatches = [true, false], seed = [0, 1]}''')
    assert [(row.name, list(row.variants)) for row in made.tables[0].rows] == [
        (order, [f'learning_rate={rate}, {fresh}fresh_minibatches'
                 for fresh in ('', 'no')])
        for order, rate in [('joint', '1e-2'), ('decoder,encoder', '1e-3')]]
    assert all(len(ids) == 2 for row in made.tables[0].rows
               for ids in row.variants.values())


@pytest.mark.parametrize('choices, expected', [
    ("product = {seed = [0, 1]}", ['vae']),
    ("product = {order = ['joint', 'decoder,encoder']}", ['joint', 'decoder,encoder']),
    ("product = {fresh_minibatches = [false, true]}",
     ['nofresh_minibatches', 'fresh_minibatches']),
    ("list = [{}, {hidden = [8, 4]}]", ['128', '8,4']),
    ("list = [{name = 'a', order = 'joint'}, {name = 'b', latent = 2}]", ['a', 'b']),
    # Entries that differ only in their seed are one row.
    ("list = [{name = 'a', seed = 0}, {name = 'a', seed = 1}]", ['a']),
    ("list = [{name = 'a', seed = 0}, {name = 'b', seed = 1}]", ['a', 'b']),
    ("list = [{name = 'a', latent = 3}, {beta = 2.0}]\nproduct = {hidden = [8, 4]}",
     ['a, hidden=8', 'a, hidden=4', 'latent=20, beta=2, hidden=8',
      'latent=20, beta=2, hidden=4'])])
def test_names_of_rows(read, choices, expected):
    assert names(read(HEAD + TABLE + choices)) == expected


def test_rows_are_shown_by_other_metrics_too(read):
    made = read(HEAD + TABLE.replace("'vae'", "'gan'").replace("'neg_elbo'", "'mmd2'")
                + "about = 'P'\nalso = {coverage = 'share', density = 'ratio'}\n"
                'product = {seed = [0, 1]}')
    assert len(made.trials) == 2
    assert [table[:5] for table in made.tables] == [
        ('A', 'P', 'gan', 'mmd2', 'nats'),
        ('A: coverage', '', 'gan', 'coverage', 'share'),
        ('A: density', '', 'gan', 'density', 'ratio')]
    assert all(table.rows == made.tables[0].rows for table in made.tables)


def test_tables_share_trials(read):
    made = read(HEAD + TABLE + 'product = {seed = [0, 1]}' + TABLE.replace("'A'", "'B'")
                + 'list = [{beta = 1.0, seed = 1}, {seed = 2}]')
    assert arguments(made) == [('--seed=0',), ('--seed=1',), ('--seed=2',)]
    ids = [trial.id for trial in made.trials]
    assert [row.variants[''] for table in made.tables for row in table.rows] == [
        tuple(ids[:2]), tuple(ids[1:])]


@pytest.mark.parametrize('overrides, expected, rows', [
    ([], '''
     --epochs=2 --hidden=8 --latent=3 --seed=0
     --epochs=2 --hidden=8 --latent=3 --seed=1
     --epochs=2 --hidden=4 --latent=2 --seed=0
     --epochs=2 --hidden=4 --latent=2 --seed=1''',
     ['hidden=8, latent=3', 'hidden=4, latent=2']),
    (['epochs=3', 'seed=7'], '''
     --epochs=3 --seed=7 --hidden=8 --latent=3
     --epochs=3 --seed=7 --hidden=4 --latent=2''',
     ['hidden=8, latent=3', 'hidden=4, latent=2']),
    (['latent=5', 'seed=1'], '''
     --epochs=2 --latent=5 --seed=1 --hidden=8
     --epochs=2 --latent=5 --seed=1 --hidden=4''', ['8', '4']),
    (['hidden=6', 'hidden=5', 'latent=5', 'seed=1'], '''
     --epochs=2 --hidden=6 --hidden=5 --latent=5 --seed=1''', ['vae'])])
def test_overrides(read, overrides, expected, rows):
    made = read(HEAD + TABLE + '''
flags = {epochs = 2}
zip = {hidden = [8, 4], latent = [3, 2]}
product = {seed = [0, 1]}''', *overrides)
    assert [' '.join(one) for one in arguments(made)] == [
        line.strip() for line in expected.splitlines()[1:]]
    assert names(made) == rows


def test_an_override_leaves_one_of_entries_that_had_nothing_else(read):
    made = read(HEAD + TABLE + "list = [{order = 'joint'}, {order = 'simultaneous'}]",
                'order=encoder', 'fresh_minibatches=true')
    assert arguments(made) == [('--order=encoder', '--fresh_minibatches=true')]


LISTED = "there are batch_size, beta, cosine, cycles, dataset, epochs, "
ARRAY = 'make it an array, as in [0, 1] or [[table]].'


@pytest.mark.parametrize('text, words', [
    ("titel = 'T'", "unknown key 'titel'; there are title, about, table. Did you mean "
     "'title'?"),
    ('title = T', 'is not TOML: * (at line 1, column 9); correct it there.'),
    (HEAD, f'table is missing; {ARRAY}'),
    ('table = []', f'table is []; {ARRAY}'),
    (HEAD + '[table]', f'table is {{}}; {ARRAY}'),
    ('table = [1]', 'an entry of table is 1; make it a table, as in {epochs = 2}.'),
    (HEAD + TABLE + TABLE, "table 'A': table 2 has this title again; give each its "
     'own.')])
def test_errors_in_the_file(read, text, words):
    check_error(read, text, words)


@pytest.mark.parametrize('text, words', [
    ("[[table]]\nlabel = 'x'", "table 1: title is missing; make it text, as in "
     "'joint'."),
    (TABLE + 'flag = {}', "table 'A': unknown key 'flag'; there are title, about, "
     'experiment, metric, label, also, tune, flags, list, zip, product. Did you mean '
     "'flags'?"),
    (TABLE.replace('vae', 'vea'), "table 'A': unknown experiment 'vea'; there are "
     f"{', '.join(registry.names())}. Did you mean 'vae'?"),
    (TABLE.replace('neg_elbo', 'negelbo'), "table 'A': unknown metric 'negelbo'; there "
     "are neg_elbo, mutual_information, active_units. Did you mean 'neg_elbo'?"),
    (TABLE + "also = {coverage = 'c'}", "table 'A': unknown metric 'coverage'; there "
     "are neg_elbo, mutual_information, active_units."),
    (TABLE + 'also = {neg_elbo = 3}', "table 'A': an entry of also is 3; make it text, "
     "as in 'joint'."),
    (TABLE.replace("'neg_elbo'", '3'), "table 'A': metric is 3; make it text, as in "
     "'joint'.")])
def test_errors_in_the_head_of_a_table(read, text, words):
    check_error(read, HEAD + text, words)


@pytest.mark.parametrize('choices, words', [
    # Which flags and how they are given.
    ('flags = {epoch = 2}', f"unknown flag 'epoch'; {LISTED}* Did you mean 'epochs'?"),
    ('zip = {help = [true]}', f"unknown flag 'help'; {LISTED}*"),
    ('flags = {name = 2}', f"unknown flag 'name'; {LISTED}*"),
    *((f'product = {{{name} = [1]}}', f'{name} says where and how a run is made, not '
       'what it is; leave it to the command line of the sweep.')
      for name in NON_IDENTITY_FLAGS),
    ('flags = {seed = 0}\nproduct = {seed = [1]}', 'seed is in two of flags, list, zip '
     'and product; keep one of them.'),
    ('list = [{latent = 2}]\nzip = {latent = [1]}', 'latent is in two of flags, list, '
     'zip and product; keep one of them.'),
    ('zip = {hidden = [8, 4], latent = [2]}', 'the arrays of zip go in step, and have '
     "the lengths {'hidden': 2, 'latent': 1}; make them equal."),
    ('list = []', f'list is []; {ARRAY}'),
    ('list = [1]', 'an entry of list is 1; make it a table, as in {epochs = 2}.'),
    ('list = [{name = 1}]', "name in list is 1; make it text, as in 'joint'."),
    ('flags = [1]', 'flags is [1]; make it a table, as in {epochs = 2}.'),
    ('product = {seed = []}', f'an entry of product is []; {ARRAY}'),
    ('product = {seed = 3}', f'an entry of product is 3; {ARRAY}'),
    ("zip = {order = 'joint'}", f"an entry of zip is 'joint'; {ARRAY}"),
    ("tune = 'beta'", f"tune is 'beta'; {ARRAY}"),
    ('tune = [1]', "an entry of tune is 1; make it text, as in 'joint'."),
    ("tune = ['bta']\nproduct = {beta = [1, 2]}", "unknown flag to tune 'bta'; there "
     "are beta. Did you mean 'beta'?"),
    ("tune = ['seed']\nproduct = {beta = [1], seed = [0]}", "unknown flag to tune "
     "'seed'; there are beta."),
    # Values.
    ('flags = {epochs = [1, 2]}', 'epochs = [1, 2] is not what --epochs takes; to try '
     'several values, give them in product.'),
    ('flags = {hidden = []}', 'hidden = [] is not what --hidden takes; to try several '
     'values, give them in product.'),
    ('flags = {hidden = [[8]]}', 'hidden = [8] is no value for --hidden; give text or '
     'a number, or, where it is a switch, true or false.'),
    ('flags = {order = true}', 'order = True is no value for --order; give text or a '
     'number, or, where it is a switch, true or false.'),
    ("flags = {dataset = 'mnits'}", "unknown dataset 'mnits'; there are "
     f"{', '.join(sorted(DATASETS))}. Did you mean 'mnist'?"),
    ("flags = {schedule = 'cyclc'}", "unknown schedule 'cyclc'; there are cyclic, "
     "* Did you mean 'cyclic'?"),
    ('flags = {dataset = 3}', "unknown dataset '3'; there are *"),
    ("product = {seed = ['one']}", "flag --seed=one: invalid literal for int() *"),
    ('flags = {hidden = 0}', 'flag --hidden=0: 0 is not a positive integer'),
    ('flags = {beta = nan}', '--beta=nan; give a finite number.'),
    ("flags = {fresh_minibatches = 'maybe'}", 'flag --fresh_minibatches=maybe: *'),
    # What flags mean together.
    ("product = {order = ['joint', 'decodr']}", "--order: unknown block 'decodr'; "
     "there are encoder, decoder, sigma, last_layer, joint, simultaneous. Did you mean "
     "'decoder'?"),
    ("flags = {order = 'joint', schedule = 'shuffled'}", '--schedule=shuffled chooses '
     'among blocks, and --order=joint moves all of them; name blocks.'),
    ('flags = {learning_rate = 0}', "--learning_rate: '0' has the value '0'; *"),
    # Trials and rows.
    ('product = {seed = [0, 1, 0]}', 'the trial --seed=0 is there twice; drop one, or '
     'give it another seed.'),
    ("list = [{name = 'a', beta = 1}, {name = 'b', beta = 1.0}]", 'the trial '
     '--beta=1.0 is there twice; drop one, or give it another seed.'),
    ("product = {learning_rate = [1e-3, 0.001]}", 'the trial --learning_rate=0.001 is '
     'there twice; drop one, or give it another seed.'),
    ("list = [{name = 'a', beta = 1}, {name = 'a', beta = 2}]", "two rows have the "
     "name 'a'; give each its own.")])
def test_errors_in_the_choices_of_a_table(read, choices, words):
    check_error(read, HEAD + TABLE + choices, f"table 'A': {words}")


@pytest.mark.parametrize('override, words', [
    ('epochs', "'epochs' replaces nothing; write it as epochs=2."),
    ('epoch=2', f"table 'A': unknown flag 'epoch'; {LISTED}* Did you mean 'epochs'?"),
    ('data_dir=x', "table 'A': data_dir says where and how a run is made, *")])
def test_errors_in_overrides(read, override, words):
    check_error(read, HEAD + TABLE, words, override)


def check_error(read, text, words, *overrides):
    """An asterisk stands for anything."""
    with pytest.raises(SettingError) as caught:
        read(text, *overrides)
    place, _, message = str(caught.value).partition('some.toml: ')
    begin, _, end = words.partition('*')
    assert message.startswith(begin) and message.endswith(end), message
    assert '*' in words or message == words
    assert '\n' not in message


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(SettingError, match=r'nowhere\.toml: cannot be read \(No such '
                       r'file or directory\); name a file that can\.$'):
        spec.read(tmp_path / 'nowhere.toml')
    (tmp_path / 'latin.toml').write_bytes(b"title = '\xe9'")
    with pytest.raises(SettingError, match=r"latin\.toml: is not TOML: 'utf-8' codec"):
        spec.read(tmp_path / 'latin.toml')


def test_the_identity_of_a_trial_stays():
    # Whoever changes this orphans everybody's results: their trials would run again.
    values = cli.parse(vae.define_flags, ['--order=joint', '--seed=1'])
    assert identity('vae', values) == '8e13e8a18b07d6b5'


def identity_of(*flags, experiment='vae', module=vae):
    return identity(experiment, cli.parse(module.define_flags, flags))


def test_identity_counts_what_changes_numbers_and_only_that():
    mine = identity_of('--beta=2', '--hidden=8', '--hidden=4')
    assert len(mine) == 16 and int(mine, 16)
    for same in [('--hidden=8', '--hidden=4', '--beta=2'),
                 ('--beta=2.0', '--hidden=8', '--hidden=4', '--seed=0', '--epochs=1e2'),
                 ('--beta=2', '--hidden=8', '--hidden=4', '--learning_rate=.001'),
                 ('--beta=2', '--hidden=8', '--hidden=4', '--run_dir=a', '--data_dir=b',
                  '--checkpoint_every=1', '--preempt_latency=1')]:
        assert identity_of(*same) == mine
    for other in [('--beta=2', '--hidden=4', '--hidden=8'), ('--beta=2', '--hidden=8'),
                  ('--hidden=8', '--hidden=4'),
                  ('--beta=2', '--hidden=8', '--hidden=4', '--seed=1')]:
        assert identity_of(*other) != mine


def test_numbers_in_text_count_by_their_value():
    def rates(text):
        return identity_of(f'--learning_rate={text}')

    assert rates('decoder=1e-3, encoder=5e-4') == rates('decoder=.001,encoder=0.0005')
    assert rates('decoder=1e-3,encoder=5e-4') != rates('decoder=5e-4,encoder=1e-3')


def test_identity_counts_the_experiment_and_the_schema(monkeypatch):
    before = identity_of(module=gan)
    assert before != identity_of(experiment='gan', module=gan)
    monkeypatch.setattr('experiments.harness.sweep.trial_id.SCHEMA', 2)
    assert before != identity_of(module=gan)


@pytest.fixture
def made(read):
    return read(HEAD + "about = '× two'\n" + TABLE + '''
tune = ['learning_rate']
product = {order = ['joint', 'encoder'], learning_rate = [1e-3, 1e-2], seed = [0, 1]}
''' + TABLE.replace("'A'", "'B'"))


def test_a_sweep_is_read_back_as_it_was_saved(made, tmp_path):
    folder = tmp_path / 'new' / 'folder'
    for _ in range(2):
        spec.save(made, folder)
        back = spec.load(folder)
        assert back == made and type(back.tables[0].rows[0]) is spec.Row
        assert back.trials[0].folder == made.trials[0].folder
        assert hash(back.trials) == hash(made.trials)
        assert os.listdir(folder) == ['sweep.json']


def test_saving_is_all_or_nothing(made, tmp_path, monkeypatch):
    spec.save(made, tmp_path)

    def fail(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='No space'):
        spec.save(made._replace(title='other'), tmp_path)
    assert spec.load(tmp_path) == made
    assert [path.name for path in tmp_path.glob('*.json')] == ['sweep.json']


def test_a_folder_without_a_sweep(tmp_path):
    with pytest.raises(SettingError, match=r'holds no sweep; name the folder of one'):
        spec.load(tmp_path)


NAMES = [
    'audio_gan', 'audio_gan_unlabelled', 'audio_notes', 'audio_vae', 'binarized_mnist',
    'exact_blocks', 'exact_grey', 'fine_tuning', 'from_scratch', 'gan_digits',
    'gan_mnist', 'gan_orders', 'iwae_sweep', 'lagging_pixels', 'quickstart', 'rules',
    'smoke', 'stacked_hard', 'stacked_table', 'static_mnist', 'vaegan_mnist',
    'vaegan_table']


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.sample(3)
def test_sweeps_of_the_package(name):
    made = spec.read(spec.named(name))
    assert made.name == name and made.trials and made.title
    text = spec.named(name).read_text(encoding='utf-8')
    assert text.startswith('# ') and '\n# Takes: ' in text


def test_rules_has_every_rule():
    made = spec.read(spec.named('rules'), ['epochs=1', 'seed=0'])
    tried = {cli.parse(vae.define_flags, trial.arguments).schedule
             for trial in made.trials}
    assert tried == {'cyclic', *block_choice.NAMES}


def test_sweeps_are_named_by_name_or_path(tmp_path):
    assert spec.named(f'{tmp_path}/mine.toml') == tmp_path / 'mine.toml'
    assert sorted(path.stem for path in spec.named('smoke').parent.iterdir()) == NAMES
    with pytest.raises(SettingError) as caught:
        spec.named('smok')
    assert str(caught.value) == (
        f"unknown sweep 'smok'; there are {', '.join(NAMES)}. Did you mean 'smoke'? A "
        'file of your own is named by its path, as in ./smok.toml.')
