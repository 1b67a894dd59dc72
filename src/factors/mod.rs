//! From features and logits to factors, and what the rules need beyond them: refits of the head and its curvature.
