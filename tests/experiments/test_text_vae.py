import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm import models
from cdgm.data import Dataset, Split
from cdgm.data.names import LENGTH, VOCABULARY, tokenise
from experiments import text_vae
from experiments.harness import cli

WORDS = ['emma', 'ava', 'olivia', 'mia', 'zoe', 'anna', 'eve', 'ida', 'lea', 'nora']
DATA = Dataset('names', *(Split(tokenise(part), None) for part in (
    WORDS[:6], WORDS[6:8], [*WORDS[8:], 'emma'])), {}, VOCABULARY)


def test_the_nll_of_a_name_is_that_of_its_letters_and_its_end(key):
    """Of a language model whose logits are all equal: one letter in 27, each time."""
    model = models.text_vae(27, LENGTH, latent_size=0, hidden=3, embedding=2)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape),
                          jax.eval_shape(model.init, key))
    tokens, lengths = DATA.test.examples
    nll = text_vae.name_nll(model, params, (jnp.asarray(tokens), jnp.asarray(lengths)),
                            num_samples=1)
    np.testing.assert_allclose(nll, lengths * np.log(27), rtol=1e-6)
    row, invented = text_vae.evaluate('lm', 0, model, params, DATA, 1, 0.)
    np.testing.assert_allclose((row.nll, row.nll_unseen), np.log(27), rtol=1e-6)
    assert row.kl == 0 and row.nll_error < 1e-6 and len(invented) == 1000
    assert row.novel > 0.9


@pytest.mark.slow
def test_the_command_writes_a_row_and_names_for_each_arm(tmp_path, monkeypatch):
    monkeypatch.setattr(text_vae, 'names', lambda data_dir: DATA)
    arguments = ['--hidden=4', '--epochs=1', '--batch_size=2', '--nll_samples=3',
                 f'--out_dir={tmp_path}', '--arms=lm']
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        text_vae.main(cli.parse(text_vae.define_flags, arguments))
        before = (tmp_path / 'text_vae.csv').read_text()
        text_vae.main(cli.parse(text_vae.define_flags, [*arguments, '--arms=joint']))
    # It goes on where it was.
    assert (tmp_path / 'text_vae.csv').read_text().startswith(before)
    with open(tmp_path / 'text_vae.csv') as stream:
        rows = {row['arm']: row for row in csv.DictReader(stream)}
    assert set(rows) == {'lm', 'joint'} and float(rows['lm']['kl']) == 0
    assert float(rows['joint']['kl']) > 0
    assert (tmp_path / 'text_vae.png').exists()
    assert 'on the way: ' in (tmp_path / 'text_vae.txt').read_text()
