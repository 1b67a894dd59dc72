//! The workspaces of a network's passes: each is lent for a pass, and kept for the next.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::encoder::Workspace;
use crate::backend::Backend;
use crate::sync::lock;

/// Workspaces of a network, and how many passes are at work in one.
pub(super) struct Workspaces<B: Backend> {
    state: Mutex<State<B>>,
    /// Told when a pass ends.
    ended: Condvar,
}

struct State<B: Backend> {
    /// Those nobody is using; there come to be as many as there were ever passes at the same time.
    idle: Vec<Workspace<B>>,
    passes: usize,
    /// Whether one pass has the device for itself, or waits for the others to end so that it has.
    alone: bool,
}

/// A pass at work, until this is dropped.
pub(super) struct Turn<'a, B: Backend> {
    workspaces: &'a Workspaces<B>,
    alone: bool,
    /// What there is to work in; what is there at the end is kept.
    pub(super) space: Option<Workspace<B>>,
}

impl<B: Backend> Workspaces<B> {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State { idle: Vec::new(), passes: 0, alone: false }), ended: Condvar::new() }
    }

    /// Begins a pass, beside others.
    pub(super) fn begin(&self) -> Turn<'_, B> {
        let mut state = self.wait_while(lock(&self.state), |state| state.alone);
        state.passes += 1;
        Turn { workspaces: self, alone: false, space: state.idle.pop() }
    }

    /// Begins a pass once no other is at work, and lets go of all workspaces; none begins until it ends.
    pub(super) fn begin_alone(&self) -> Turn<'_, B> {
        let mut state = self.wait_while(lock(&self.state), |state| state.alone);
        state.alone = true;
        state = self.wait_while(state, |state| state.passes > 0);
        state.idle.clear();
        Turn { workspaces: self, alone: true, space: None }
    }

    /// Lets go of those nobody is using.
    pub(super) fn clear(&self) {
        lock(&self.state).idle.clear();
    }

    fn wait_while<'s>(
        &self,
        state: MutexGuard<'s, State<B>>,
        condition: impl Fn(&State<B>) -> bool,
    ) -> MutexGuard<'s, State<B>> {
        self.ended.wait_while(state, |state| condition(state)).unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Drop for Turn<'_, B> {
    fn drop(&mut self) {
        let mut state = lock(&self.workspaces.state);
        if self.alone {
            state.alone = false;
        } else {
            state.passes -= 1;
        }
        state.idle.extend(self.space.take());
        self.workspaces.ended.notify_all();
    }
}
