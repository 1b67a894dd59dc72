// Which tile of which sequence's own sum of outer products a block makes, and the rows that are added up.
#pragma once
#include "port.cuh"

// Blocks of one sequence follow each other, so that its rows are read from the caches.
template <int BM, int BN>
struct OwnTile {
    int sequence, output, input;
    DEVICE OwnTile(int inputs, int outputs) {
        const int across = (inputs + BN - 1) / BN, tiles = across * ((outputs + BM - 1) / BM), tile = int(blockIdx.x) % tiles;
        sequence = int(blockIdx.x) / tiles, output = tile / across * BM, input = tile % across * BN;
    }
};

struct OwnRows {
    unsigned begin, count;
    DEVICE OwnRows(const unsigned* starts, int sequence, int first_only)
        : begin(first_only ? unsigned(sequence) : starts[sequence]), count(first_only ? 1 : starts[sequence + 1] - begin) {}
};
