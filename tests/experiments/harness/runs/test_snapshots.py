import numpy as np

from experiments.harness.runs import snapshots


def test_snapshots_come_back_in_the_order_of_the_cycles(tmp_path):
    assert snapshots.read(tmp_path) == {}
    for cycle in (1_000_000, 20, 3):
        snapshots.write(tmp_path, cycle, np.full((2, 2), cycle))
    snapshots.write(tmp_path, 20, np.zeros(1, np.uint8))  # a run that went on
    kept = snapshots.read(tmp_path)
    assert list(kept) == [3, 20, 1_000_000]
    assert kept[20].dtype == np.uint8 and kept[1_000_000][0, 0] == 1_000_000
