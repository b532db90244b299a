import numpy as np
import pytest
from PIL import Image

from experiments.harness.report import artifacts, figures


@pytest.mark.parametrize('channels', (1, 3))
def test_an_animation_has_a_frame_a_sheet_and_dark_ink_where_grey(tmp_path, channels):
    path = tmp_path / 'training.gif'
    white, black = np.zeros((4, 8, 8, channels)), np.ones((4, 8, 8, channels))
    figures.animation(path, [white, black], columns=2)
    with Image.open(path) as picture:
        assert picture.n_frames == 2 and picture.width <= 160
        shown = []
        for frame in range(2):
            picture.seek(frame)
            shown.append(picture.convert('L').getpixel((0, 0)))
    assert shown == ([255, 0] if channels == 1 else [0, 255])
    shown, = artifacts.show(tmp_path, path.name, 'Training')
    assert 'src="data:image/gif;base64,R0lGOD' in shown
    assert artifacts.kind(path.name) == 'pictures'
