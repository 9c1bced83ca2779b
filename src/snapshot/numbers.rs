//! Which number each destination is remembered by, of all services: as a compiler has them, or as another process left them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::compile::Key;

/// By service.
#[derive(Debug, Clone, Default)]
pub struct Numbers(HashMap<Key, Of>);

/// Of one service.
#[derive(Debug, Clone)]
struct Of {
    /// By endpoint.
    destinations: Arc<[(SocketAddr, u32)]>,
    had_other_slots: bool,
}

impl Numbers {
    /// The services, whether the slots that their flows are remembered with may be of another table, and their numbers by endpoint.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, bool, impl Iterator<Item = (SocketAddr, u32)>)> {
        self.0.iter().map(|(key, of)| (key, of.had_other_slots, of.destinations.iter().copied()))
    }

    /// Whether the slots that flows of a service are remembered with may be of another table.
    pub fn had_other_slots(&self, key: &Key) -> bool {
        self.0.get(key).is_some_and(|of| of.had_other_slots)
    }

    /// Takes those of a service out.
    pub fn take(&mut self, key: &Key) -> HashMap<SocketAddr, u32> {
        self.0.remove(key).map(|of| of.destinations.iter().copied().collect()).unwrap_or_default()
    }

    /// The numbers alone.
    pub fn all(&self) -> impl Iterator<Item = u32> {
        self.0.values().flat_map(|of| of.destinations.iter()).map(|&(_, number)| number)
    }

    pub fn insert(
        &mut self,
        key: Key,
        had_other_slots: bool,
        destinations: impl IntoIterator<Item = (SocketAddr, u32)>,
    ) {
        self.0.insert(key, Of { destinations: destinations.into_iter().collect(), had_other_slots });
    }

    pub fn remove(&mut self, key: &Key) {
        self.0.remove(key);
    }
}

impl FromIterator<(Key, bool, Vec<(SocketAddr, u32)>)> for Numbers {
    fn from_iter<T: IntoIterator<Item = (Key, bool, Vec<(SocketAddr, u32)>)>>(services: T) -> Self {
        let mut numbers = Self::default();
        services.into_iter().for_each(|(key, had_other_slots, of)| numbers.insert(key, had_other_slots, of));
        numbers
    }
}
