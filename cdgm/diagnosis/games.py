"""What ails a game of two players or more, by the numbers of `game_numbers`.

    ailment              what shows it
    discriminator won    hardly a fake whose logit is above a real one's
    generator collapsed  samples lie closer together than data do
    modes missing        data that have no sample anywhere near
    game rotates         leading eigenvalues of the game's Jacobian nearly imaginary
    no gradient          one player's gradient is a trifle of another's
    not finite           a loss or a gradient is not

A gradient, a loss and an overlap alone say little of a game (a generator may win with
any of them), so limits are wide: what is said here is plainly wrong.

Sources  Arjovsky and Bottou 2017 (arXiv:1701.04862) (a discriminator that is too good);
         Mescheder et al. 2017 (arXiv:1705.10461) section 3 (eigenvalues).
"""

import math
from collections.abc import Callable


def won(overlap: float, logit_gap: float, loss_gap: float, limit: float = 0.02
        ) -> str | None:
    """Say whether the discriminator tells every fake from every real example."""
    if not overlap < limit:
        return None
    return (f'the discriminator has won: of pairs of a fake and a real example, '
            f'{overlap:.2%} are in the wrong order (limit {limit:.0%}), mean logits '
            f'are {logit_gap:.3g} apart, and losses {loss_gap:.3g}; give the generator '
            'more steps or a higher rate, or the discriminator a penalty (R1) or noise')


def one_point(diversity: float, limit: float = 0.1) -> str | None:
    """Say whether all samples are nearly the same."""
    if not diversity < limit:
        return None
    return (f'the generator has collapsed: two samples are {diversity:.3g} of the '
            f'distance apart that two data are (limit {limit:g}); go back to an '
            'earlier state, and pack samples, pair them (relativistic) or penalise the '
            'discriminator (R1 and R2)')


def missing(reach: float, diversity: float, limit: float = 10., least: float = 0.1
            ) -> str | None:
    """Say whether data are far from any sample, though samples differ."""
    if not reach > limit or diversity < least:
        return None
    return (f'modes are missing: half of the data are at least {reach:.3g} times as '
            f'far from the nearest sample as from the nearest other datum (limit '
            f'{limit:g}); train on, pack samples or pair them (relativistic)')


def rotates(rotation: float, rotation_real: float, rotation_imaginary: float,
            limit: float = 0.98) -> str | None:
    """Say whether the players chase each other round."""
    if not rotation > limit:
        return None
    squared = rotation_real ** 2 + rotation_imaginary ** 2
    steps = (f'steps at once converge below h = {2 * rotation_real / squared:.2g} only'
             if rotation_real > 0 else 'steps at once cannot converge')
    angle = math.degrees(math.atan2(rotation_imaginary, rotation_real))
    return (f'the game rotates: a leading eigenvalue of its Jacobian is '
            f'{rotation_real:.3g} ± {rotation_imaginary:.3g}i, at {angle:.0f} degrees, '
            f'so {steps}; update in turn, by extragradient or optimistic steps, or '
            'add a penalty (R1) or consensus')


def no_gradient(gradient_ratio: float, limit: float = 1e-4) -> str | None:
    """Say whether a player has no gradient while another has."""
    if not gradient_ratio < limit:
        return None
    return (f'a player has no gradient: its norm is {gradient_ratio:.2g} of the '
            f"largest player's (limit {limit:g}; the norms are gradient_norm/NAME); "
            'take a loss that does not saturate')


def not_finite(finite: float) -> str | None:
    """Say whether a loss or a gradient is infinite or not a number."""
    if finite:
        return None
    return ('a loss or a gradient is not finite (loss/NAME and gradient_norm/NAME); go '
            'back to an earlier state with a lower rate')


CHECKS: dict[str, Callable[..., str | None]] = {
    'not finite': not_finite, 'discriminator won': won,
    'generator collapsed': one_point, 'modes missing': missing,
    'game rotates': rotates, 'no gradient': no_gradient}
