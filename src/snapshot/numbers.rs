//! Which number each destination is remembered by, of all services: as a compiler has them, or as another process left them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::compile::Key;

/// By service, and then by endpoint.
#[derive(Debug, Clone, Default)]
pub struct Numbers(HashMap<Key, Arc<[(SocketAddr, u32)]>>);

impl Numbers {
    pub fn iter(&self) -> impl Iterator<Item = (&Key, impl Iterator<Item = (SocketAddr, u32)>)> {
        self.0.iter().map(|(key, destinations)| (key, destinations.iter().copied()))
    }

    /// Takes those of a service out.
    pub fn take(&mut self, key: &Key) -> HashMap<SocketAddr, u32> {
        self.0.remove(key).map(|destinations| destinations.iter().copied().collect()).unwrap_or_default()
    }

    /// The numbers alone.
    pub fn all(&self) -> impl Iterator<Item = u32> {
        self.0.values().flat_map(|destinations| destinations.iter()).map(|&(_, number)| number)
    }

    pub fn insert(&mut self, key: Key, destinations: impl IntoIterator<Item = (SocketAddr, u32)>) {
        self.0.insert(key, destinations.into_iter().collect());
    }

    pub fn remove(&mut self, key: &Key) {
        self.0.remove(key);
    }
}

impl FromIterator<(Key, Vec<(SocketAddr, u32)>)> for Numbers {
    fn from_iter<T: IntoIterator<Item = (Key, Vec<(SocketAddr, u32)>)>>(services: T) -> Self {
        Self(services.into_iter().map(|(key, destinations)| (key, destinations.into())).collect())
    }
}
