// The tables of the embedding stage, and what a token's place adds to its word's row.
#pragma once
#include "rows.cuh"

struct Tables {
    const float* word;        // [V, E]
    const float* position;    // [P, E], or null
    const float* token_type;  // [types, E], or null
    const float* task;        // [E], or null
};

// Where each token stands; all u32 [T]. The host has checked that the tables have these rows.
struct Tokens {
    const unsigned* ids;
    const unsigned* positions;
    const unsigned* types;
};

// Adds position, segment and task, in the order of the formula.
template <class Row>
DEVICE void add_place(Row& row, const Tables& tables, const Tokens& tokens, int token, int width) {
    const auto add = [&](const float* table, unsigned number) {
        const float* const own = table + size_t(number) * width;
        if (table) row.change([&](const Four& x, int column, int count) { return x + Row::read(own + column, count); });
    };
    add(tables.position, tables.position ? tokens.positions[token] : 0);
    add(tables.token_type, tables.token_type ? tokens.types[token] : 0);
    add(tables.task, 0);
}
