//! Every operation of the CPU backend against the reference, over odd shapes and extreme values.
