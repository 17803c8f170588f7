"""What a kernel is made of, said without a GPU: python -m numba_fftconv inspect.

Modules, from the top down:

    command    options of the command line, and the errors of a caller
    library    the package's own kernels, in a layer that stands for others
    custom     a kernel of the caller's, with arguments
    compiled   from a kernel to its machine code, and errors of the compiler in one line
    report     compiles a kernel, reads its machine code, runs a block of its PTX: all figures, frozen
    text       the figures for a terminal
    page       the figures of many kernels as a web page
"""
