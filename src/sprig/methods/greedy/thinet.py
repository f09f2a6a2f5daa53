"""`thinet`: grow the set of removed units whose summed contribution is smallest; nothing is re-weighted.

Luo, Wu, Lin, "ThiNet" (ICCV 2017). With `rem` the indicator of the removed units and q = G rem + (b - G 1)
(the second term is zero for the consumers' own output), removing i adds 2 q_i + G_ii to the error.
"""

import torch

from sprig.methods.greedy.gram import AlphaPath, Gram


def thinet(g: Gram) -> AlphaPath:
    """The nested path of backward removal, told in the order of adding; factors are 1."""
    size = g.size
    diagonal = g.matrix.diagonal()
    stay = torch.ones(size, dtype=torch.float64)
    q = g.cross - g.matrix.sum(1)
    errors, rows, removed = [g.error(stay)], [stay.clone()], list[int]()
    for _ in range(size):
        score = (2 * q + diagonal).masked_fill(stay == 0, torch.inf)
        # Among equals the highest number goes first, so that the lowest stays longest.
        i = size - 1 - int(score.flip(0).argmin())
        q += g.matrix[:, i]
        stay[i] = 0
        removed.append(i)
        errors.append(g.error(stay))
        rows.append(stay.clone())
    return AlphaPath(tuple(removed[::-1]), tuple(errors[::-1]), torch.stack(rows[::-1]))
