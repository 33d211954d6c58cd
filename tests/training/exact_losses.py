"""The losses with their gradients on one process, without cancellation: what errors are measured against."""

from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np


@dataclass
class Result:
    """A loss and its gradients; those of the features for the whole batch."""

    value: float
    images: np.ndarray
    texts: np.ndarray
    scale: float
    bias: float

    def errors(self, exact: "Result") -> dict[str, float]:
        return {
            name: float(np.abs(np.asarray(getattr(self, name)) - getattr(exact, name)).max())
            for name in ("value", "images", "texts", "scale", "bias")
        }


def exact_result(name: str, images: np.ndarray, texts: np.ndarray, scale: float, bias: float) -> Result:
    """In float64, with each matched pair's gradient taken from the others' shares, where 1 − P would cancel."""
    products = images @ texts.T
    gradient, value = _clip(scale * products) if name == "clip" else _siglip(scale * products + bias)
    return Result(
        value,
        scale * gradient @ texts,
        scale * gradient.T @ images,
        float((gradient * products).sum()),
        0.0 if name == "clip" else float(gradient.sum()),
    )


def _clip(logits: np.ndarray) -> tuple[np.ndarray, float]:
    by_row, losses_by_row = _softmax(logits)
    by_column, losses_by_column = _softmax(logits.T)
    return (by_row + by_column.T) / (2 * len(logits)), float((losses_by_row + losses_by_column).mean() / 2)


def _softmax(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The softmax over each row minus one at its match, and each row's cross-entropy."""
    matched, greatest = np.diag(logits), logits.max(1)
    shares = np.exp(logits - greatest[:, None])
    np.fill_diagonal(shares, 0)
    others, own = shares.sum(1), np.exp(matched - greatest)
    shares /= (others + own)[:, None]
    np.fill_diagonal(shares, -others / (others + own))
    losses = np.where(matched == greatest, np.log1p(others), np.log(others + own) + greatest - matched)
    return shares, losses


def _siglip(logits: np.ndarray) -> tuple[np.ndarray, float]:
    signed = logits.copy()
    np.fill_diagonal(signed, -np.diag(logits))
    gradient = np.exp(-np.logaddexp(0, -signed))
    np.fill_diagonal(gradient, -np.diag(gradient))
    return gradient / len(logits), float(np.logaddexp(0, signed).sum() / len(logits))


def of_sixty_digits(name: str, images: np.ndarray, texts: np.ndarray, scale: float, bias: float) -> Result:
    """The formulas as the papers write them, in sixty digits; for a handful of pairs."""
    with localcontext() as context:
        context.prec = 60
        s, b, count = Decimal(scale), Decimal(bias), range(len(images))
        x, y = ([[Decimal(value) for value in row] for row in rows.tolist()] for rows in (images, texts))
        products = [[sum((p * q for p, q in zip(x[i], y[j], strict=True)), Decimal(0)) for j in count] for i in count]
        if name == "clip":
            powers = [[(s * products[i][j]).exp() for j in count] for i in count]
            rows = [sum(powers[i]) for i in count]
            columns = [sum(powers[i][j] for i in count) for j in count]
            gradient = [
                [(powers[i][j] / rows[i] + powers[i][j] / columns[j] - 2 * (i == j)) / (2 * len(x)) for j in count]
                for i in count
            ]
            value = sum((rows[i].ln() + columns[i].ln()) / 2 - s * products[i][i] for i in count) / len(x)
            of_bias = Decimal(0)
        else:
            powers = [[(s * products[i][j] + b).exp() for j in count] for i in count]
            gradient = [[(p / (1 + p) - (i == j)) / len(x) for j, p in enumerate(powers[i])] for i in count]
            terms = [(1 + p).ln() - (i == j) * p.ln() for i in count for j, p in enumerate(powers[i])]
            value, of_bias = sum(terms) / len(x), sum((g for row in gradient for g in row), Decimal(0))
        of_images = [[s * sum(gradient[i][j] * y[j][k] for j in count) for k in range(len(x[0]))] for i in count]
        of_texts = [[s * sum(gradient[i][j] * x[i][k] for i in count) for k in range(len(x[0]))] for j in count]
        of_scale = sum(gradient[i][j] * products[i][j] for i in count for j in count)
        as_arrays = (np.array([[float(value) for value in row] for row in rows]) for rows in (of_images, of_texts))
        return Result(float(value), *as_arrays, float(of_scale), float(of_bias))
