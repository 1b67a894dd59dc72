#!/usr/bin/env python3
"""PyTorch at the shapes of benches/gpu.rs: matrix products, attention forward and back, and a product with top-k.

    python gpu.py

Prints microseconds and rates; needs a PyTorch that sees a GPU."""

import torch
import torch.nn.functional as functional

TOKENS, WIDTH, HEADS = 5632, 768, 12


def microseconds(job):
    """The median of 20 runs after 5 to warm up, by the device's own clock."""
    times = []
    for run in range(25):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        job()
        end.record()
        end.synchronize()
        if run >= 5:
            times.append(begin.elapsed_time(end) * 1000)
    return sorted(times)[len(times) // 2]


def row(name, shape, job, operations):
    spent = microseconds(job)
    print(f"{name:28} {shape:28} {spent:10.1f} µs {operations / spent / 1000:10.0f} GFLOP/s")


def products(dtype):
    for inputs, outputs in [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)]:
        x = torch.randn(TOKENS, inputs, device="cuda", dtype=dtype)
        layer = torch.nn.Linear(inputs, outputs, device="cuda", dtype=dtype)
        row(f"linear {dtype}", f"{TOKENS} x {inputs} x {outputs}", lambda: layer(x), 2 * TOKENS * inputs * outputs)


def attention(dtype):
    for length in (64, 128, 256, 512):
        shape = (TOKENS // length, HEADS, length, WIDTH // HEADS)
        q, k, v = (torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3))
        one, case = 2 * TOKENS * length * WIDTH, f"{TOKENS} tokens, L {length}"
        with torch.no_grad():
            row(f"attention {dtype}", case, lambda: functional.scaled_dot_product_attention(q, k, v), 2 * one)
        out = functional.scaled_dot_product_attention(q, k, v)
        gradient = torch.randn_like(out)
        back = lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)
        row(f"attention_backward {dtype}", case, back, 5 * one)


def search():
    rows = torch.randn(200_000, WIDTH, device="cuda")
    for queries in (1, 64, 1024):
        asked = torch.randn(queries, WIDTH, device="cuda")

        def both():
            scores = asked @ rows.T
            scores.topk(10), scores.topk(10, largest=False)

        row("matmul + 2 topk", f"200000 x {WIDTH}, {queries} queries", both, 2 * 200_000 * WIDTH * queries)


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    print(torch.cuda.get_device_name(), torch.__version__)
    with torch.no_grad():
        for dtype in (torch.float16, torch.float32):
            products(dtype)
    for dtype in (torch.float16,):
        attention(dtype)
    with torch.no_grad():
        search()
