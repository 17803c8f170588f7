"""The three passes as they are defined: float64, one loop over the taps of the kernel, nothing transformed.

    y[n,k,p,q]  = sum over c,r,s  of  x[n, c, p*stride + r*dilation - top, q*stride + s*dilation - left] * w[k,c,r,s]

input_grad and weight_grad are the derivatives of sum(y * dy): the same triples (output, sample, tap), summed over
another letter. Samples outside the plane are zero. `padding` is ((top, bottom), (left, right)), stride and dilation are
(rows, columns).
"""
from collections.abc import Iterator

import numpy as np

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def taps(kernel: Pair, outputs: Pair, stride: Pair, dilation: Pair) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    """Every tap (r, s), with the samples of the padded plane that it meets, one for each output."""
    for r, s in np.ndindex(kernel):
        rows, cols = (slice(i * d, i * d + (n - 1) * step + 1, step)
                      for i, d, n, step in zip((r, s), dilation, outputs, stride, strict=True))
        yield r, s, (rows, cols)


def outputs(plane: Pair, kernel: Pair, stride: Pair, padding: Pads, dilation: Pair) -> Pair:
    """How many outputs (P, Q) fit."""
    p, q = ((extent + sum(pad) - (n - 1) * d - 1) // step + 1
            for extent, n, step, pad, d in zip(plane, kernel, stride, padding, dilation, strict=True))
    return p, q


def forward(x: np.ndarray, w: np.ndarray, stride: Pair, padding: Pads, dilation: Pair, groups: int) -> np.ndarray:
    """y[N,K,P,Q] of x[N,C,H,W] and w[K,C/groups,R,S]."""
    n, (k, depth, *kernel) = len(x), w.shape
    size = outputs(x.shape[2:], (kernel[0], kernel[1]), stride, padding, dilation)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *padding))
    filters = w.astype(np.float64).reshape(groups, k // groups, depth, *kernel)
    y = np.zeros((n, groups, k // groups, size[0] * size[1]))
    for r, s, seen in taps((kernel[0], kernel[1]), size, stride, dilation):
        y += filters[..., r, s] @ padded[:, :, *seen].reshape(n, groups, depth, -1)
    return y.reshape(n, k, *size)


def input_grad(
    x_shape: tuple[int, ...], w: np.ndarray, dy: np.ndarray,
    stride: Pair, padding: Pads, dilation: Pair, groups: int,
) -> np.ndarray:
    """dx[N,C,H,W] of w[K,C/groups,R,S] and dy[N,K,P,Q]."""
    (n, c, *plane), (k, depth, *kernel), size = x_shape, w.shape, dy.shape[2:]
    (top, bottom), (left, right) = padding
    padded = np.zeros((n, c, plane[0] + top + bottom, plane[1] + left + right))
    filters = w.astype(np.float64).reshape(groups, k // groups, depth, *kernel)
    flat = dy.astype(np.float64).reshape(n, groups, k // groups, -1)
    for r, s, seen in taps((kernel[0], kernel[1]), size, stride, dilation):
        padded[:, :, *seen] += (filters[..., r, s].swapaxes(1, 2) @ flat).reshape(n, c, *size)
    return padded[:, :, top:top + plane[0], left:left + plane[1]]


def weight_grad(
    x: np.ndarray, w_shape: tuple[int, ...], dy: np.ndarray,
    stride: Pair, padding: Pads, dilation: Pair, groups: int,
) -> np.ndarray:
    """dw[K,C/groups,R,S] of x[N,C,H,W] and dy[N,K,P,Q]."""
    n, (k, depth, *kernel), size = len(x), w_shape, dy.shape[2:]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *padding))
    flat = dy.astype(np.float64).reshape(n, groups, k // groups, -1)
    dw = np.zeros((groups, k // groups, depth, *kernel))
    for r, s, seen in taps((kernel[0], kernel[1]), size, stride, dilation):
        window = padded[:, :, *seen].reshape(n, groups, depth, -1)
        dw[..., r, s] = (flat @ window.swapaxes(2, 3)).sum(0)
    return dw.reshape(w_shape)
