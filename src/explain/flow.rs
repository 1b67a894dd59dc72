//! The greatest flow through layers of attention, from the first token at the top to each token at the bottom.
//!
//! Edges go from token i above a layer to token j below it, with capacity `½ A[i][j] + ½ [i = j]`. Dinic's algorithm
//! (1970): breadth-first levels, then a blocking flow by depth-first search, until the sink cannot be reached.

/// Residual capacities below this are rounding, not room.
const NOTHING: f64 = 1e-14;

/// A layered graph.
pub(super) struct Flow {
    length: usize,
    /// From the top down, each `[L, L]`: what can go from above to below.
    capacities: Vec<Vec<f64>>,
}

/// One search's state.
struct Search<'a> {
    flow: &'a Flow,
    /// What can still go down, and back up, each edge: as `capacities`.
    down: Vec<Vec<f64>>,
    up: Vec<Vec<f64>>,
    /// Each node's distance from the source, by floor from the top; `u32::MAX` where it cannot be reached.
    levels: Vec<u32>,
    /// The next edge to try of each node: the L downwards, then the L upwards.
    next: Vec<usize>,
    sink: usize,
}

impl Flow {
    /// From maps from the first layer to the last, each `[L, L]` (or `[1, L]`: the first token's row).
    pub(super) fn new(maps: &[Vec<f32>], length: usize) -> Self {
        let capacities = |map: &Vec<f32>| {
            let mut capacities = vec![0.0; length * length];
            for (i, seen) in map.chunks_exact(length).enumerate() {
                for (j, &a) in seen.iter().enumerate() {
                    capacities[i * length + j] = f64::from(a) / 2.0 + if i == j { 0.5 } else { 0.0 };
                }
            }
            capacities
        };
        Self { length, capacities: maps.iter().rev().map(capacities).collect() }
    }

    /// The greatest flow to each token at the bottom, each by itself.
    pub(super) fn to_each_token(&self) -> Vec<f64> {
        (0..self.length).map(|token| self.to(token)).collect()
    }

    fn to(&self, token: usize) -> f64 {
        let nodes = (self.capacities.len() + 1) * self.length;
        let mut search = Search {
            flow: self,
            down: self.capacities.clone(),
            up: self.capacities.iter().map(|layer| vec![0.0; layer.len()]).collect(),
            levels: vec![u32::MAX; nodes],
            next: vec![0; nodes],
            sink: self.capacities.len() * self.length + token,
        };
        let mut total = 0.0;
        while search.level() {
            search.next.fill(0);
            loop {
                let more = search.push(0, f64::INFINITY);
                if more <= NOTHING {
                    break;
                }
                total += more;
            }
        }
        total
    }
}

impl Search<'_> {
    /// Where edge `edge` of `node` leads, and what it can take.
    fn edge(&self, node: usize, edge: usize) -> Option<(usize, f64)> {
        let length = self.flow.length;
        let (floor, token) = (node / length, node % length);
        if edge < length {
            let layer = self.down.get(floor)?;
            Some(((floor + 1) * length + edge, layer[token * length + edge]))
        } else {
            let other = edge - length;
            let layer = self.up.get(floor.checked_sub(1)?)?;
            Some(((floor - 1) * length + other, layer[other * length + token]))
        }
    }

    /// Levels every node that can be reached. Whether the sink can.
    fn level(&mut self) -> bool {
        self.levels.fill(u32::MAX);
        self.levels[0] = 0;
        let mut queue = std::collections::VecDeque::from([0]);
        while let Some(node) = queue.pop_front() {
            for edge in 0..2 * self.flow.length {
                if let Some((to, room)) = self.edge(node, edge)
                    && room > NOTHING
                    && self.levels[to] == u32::MAX
                {
                    self.levels[to] = self.levels[node] + 1;
                    queue.push_back(to);
                }
            }
        }
        self.levels[self.sink] != u32::MAX
    }

    /// Sends at most `limit` from `node` towards the sink along one path; how much went.
    fn push(&mut self, node: usize, limit: f64) -> f64 {
        if node == self.sink {
            return limit;
        }
        while self.next[node] < 2 * self.flow.length {
            let edge = self.next[node];
            if let Some((to, room)) = self.edge(node, edge)
                && room > NOTHING
                && self.levels[to] == self.levels[node].saturating_add(1)
            {
                let sent = self.push(to, limit.min(room));
                if sent > NOTHING {
                    self.send(node, edge, sent);
                    return sent;
                }
            }
            self.next[node] += 1;
        }
        0.0
    }

    fn send(&mut self, node: usize, edge: usize, amount: f64) {
        let length = self.flow.length;
        let (floor, token) = (node / length, node % length);
        if edge < length {
            self.down[floor][token * length + edge] -= amount;
            self.up[floor][token * length + edge] += amount;
        } else {
            let at = (edge - length) * length + token;
            self.up[floor - 1][at] -= amount;
            self.down[floor - 1][at] += amount;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first token at the top sees itself with ¾ and the other with ¼; below, attention crosses over.
    #[test]
    fn a_flow_is_held_up_by_its_narrowest_cut() {
        let crossing = vec![0.0, 1.0, 1.0, 0.0];
        let flows = Flow::new(&[crossing, vec![0.5, 0.5]], 2).to_each_token();
        // Top: ¾ and ¼. Bottom: every edge ½. To either token: min(¾, ½) + min(¼, ½) = ¾.
        assert!(flows.iter().all(|flow| (flow - 0.75).abs() < 1e-12), "{flows:?}");
    }

    #[test]
    fn what_must_be_taken_back_is_taken_back() {
        // One layer: the flow is the edge itself.
        assert_eq!(Flow::new(&[vec![0.25, 0.75]], 2).to_each_token(), [0.625, 0.375]);
    }
}
