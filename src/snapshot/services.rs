//! The services of a snapshot as lcores read them: one array, whole in every snapshot.
//!
//! To copy it for each would cost more than all else that a change of one service does: every element is counted by four others. So there
//! are two arrays that take turns. The newest snapshot has one; the other was the last one's, and becomes the next one's once no lcore has
//! it: only what differs is copied.

use std::ops::Deref;
use std::sync::Arc;

use super::{CompiledService, ServiceIndex};

#[derive(Debug, Default)]
pub struct Services {
    newest: Arc<Vec<CompiledService>>,
    other: Arc<Vec<CompiledService>>,
    /// Where the other differs.
    differ: Vec<ServiceIndex>,
}

impl Services {
    /// For a snapshot, which does not see what is changed after.
    pub fn snapshot(&self) -> Arc<Vec<CompiledService>> {
        self.newest.clone()
    }

    pub fn push(&mut self, service: CompiledService) {
        let index = ServiceIndex(self.len() as u32);
        self.edit().push(service);
        self.differ.push(index);
    }

    pub fn replace(&mut self, index: ServiceIndex, service: CompiledService) {
        self.edit()[index.0 as usize] = service;
        self.differ.push(index);
    }

    /// Takes one out; the last takes its place.
    pub fn swap_remove(&mut self, index: ServiceIndex) -> CompiledService {
        let removed = self.edit().swap_remove(index.0 as usize);
        self.differ.extend([index, ServiceIndex(self.len() as u32)]);
        removed
    }

    /// Makes the arrays the same, and so lets go of what only snapshots before the newest had; for when no lcore has those any more. (Where
    /// one has, the next change makes up for it, by a copy of everything.)
    pub fn settle(&mut self) {
        if let Some(other) = Arc::get_mut(&mut self.other) {
            update(other, &self.newest, &mut self.differ);
        }
    }

    /// The newest, which is in no snapshot.
    fn edit(&mut self) -> &mut Vec<CompiledService> {
        if Arc::get_mut(&mut self.newest).is_none() {
            update(Arc::make_mut(&mut self.other), &self.newest, &mut self.differ);
            std::mem::swap(&mut self.newest, &mut self.other);
        }
        Arc::make_mut(&mut self.newest)
    }
}

impl Deref for Services {
    type Target = [CompiledService];

    fn deref(&self) -> &Self::Target {
        &self.newest
    }
}

fn update(other: &mut Vec<CompiledService>, newest: &[CompiledService], differ: &mut Vec<ServiceIndex>) {
    other.truncate(newest.len());
    for index in differ.drain(..) {
        // One that was removed since is in neither.
        let Some(service) = newest.get(index.0 as usize) else { continue };
        match other.get_mut(index.0 as usize) {
            Some(place) => *place = service.clone(),
            None => other.push(service.clone()),
        }
    }
}
