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

DEVICE Four with_row(Four sum, const float* table, unsigned row, int column, int count, int width) {
    return table ? sum + load_some<4>(table + size_t(row) * width + column, count) : sum;
}

// Adds position, segment and task, in the order of the formula.
DEVICE Four with_place(Four sum, const Tables& tables, const Tokens& tokens, int token, int column, int count, int width) {
    sum = with_row(sum, tables.position, tables.position ? tokens.positions[token] : 0, column, count, width);
    sum = with_row(sum, tables.token_type, tables.token_type ? tokens.types[token] : 0, column, count, width);
    return with_row(sum, tables.task, 0, column, count, width);
}
