"""A slow stand-in in NumPy (replaced by the real engine)."""
import itertools
import numpy as np

def _load(a, maps, segs, T):
    (ty, iy), (tx, ix) = (m.places(g, n) for m, g, n in zip(maps, segs, a.shape[-2:]))
    tile = np.zeros(a.shape[:-2] + (T, T)); tile[..., ty[:, None], tx] = a[..., iy[:, None], ix]
    return np.fft.rfft2(tile)

def _store(tile, out, maps, segs):
    (ty, iy), (tx, ix) = (m.places(g, n) for m, g, n in zip(maps, segs, out.shape[-2:]))
    out[..., iy[:, None], ix] = tile[..., ty[:, None], tx]

def run(row, geometry, T, a, b, bias, out):
    g = geometry; G = g.groups; axes = (g.rows, g.cols)
    ma, mb, mr = ([getattr(ax, n)(T) for ax in axes] for n in row.maps)
    N, Cg, Kg = g.N, g.C // G, g.K // G
    segs = list(itertools.product(*(range(m.segments) for m in ma)))
    if row.name == "weight_grad":
        S = 0
        for s in segs:
            X = _load(a, ma, s, T); D = _load(b, mb, s, T)
            S = S + np.einsum("ngkuv,ngcuv->gkcuv", D.reshape(N, G, Kg, *D.shape[2:]).conj(), X.reshape(N, G, Cg, *X.shape[2:]))
        _store(np.fft.irfft2(S, (T, T)).reshape(g.K, Cg, T, T), out, mr, (0, 0))
        return
    W = _load(b, mb, (0, 0), T); W = W.reshape(G, Kg, Cg, *W.shape[2:])
    for s in segs:
        A = _load(a, ma, s, T)
        if row.name == "forward":
            Y = np.einsum("ngcuv,gkcuv->ngkuv", A.reshape(N, G, Cg, *A.shape[2:]), W.conj()).reshape(N, g.K, *A.shape[2:])
        else:
            Y = np.einsum("ngkuv,gkcuv->ngcuv", A.reshape(N, G, Kg, *A.shape[2:]), W).reshape(N, g.C, *A.shape[2:])
        y = np.fft.irfft2(Y, (T, T))
        if bias is not None: y = y + bias[:, None, None]
        _store(y, out, mr, s)
