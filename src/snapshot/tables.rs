//! The Maglev tables of all services, each distinct one built once and shared.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::maglev::{self, Member, SelectionHash};

/// The slots of a table, each an index into its sorted members, or [`maglev::NOBODY`].
pub type Slots = Arc<[u16]>;

/// What makes a table: the same recipe is the same table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recipe {
    /// Sorted and distinct.
    pub members: Arc<[Member]>,
    pub size: u32,
}

/// Which members may take nothing, by index.
pub type Mask = Arc<[bool]>;

/// Tables by recipe, and their masked forms; kept from one snapshot to the next.
#[derive(Debug, Default)]
pub struct Tables {
    whole: HashMap<Recipe, Slots>,
    masked: HashMap<(Recipe, Mask), Slots>,
}

impl Tables {
    /// Makes ready what `wanted` asks for, and forgets the rest. Only what is new is built, in parallel.
    pub fn prepare(&mut self, wanted: &[(Recipe, Mask)], hash: &SelectionHash) {
        let wanted: std::collections::HashSet<&(Recipe, Mask)> = wanted.iter().collect();
        let recipes: std::collections::HashSet<&Recipe> = wanted.iter().map(|(recipe, _)| recipe).collect();
        self.whole.retain(|recipe, _| recipes.contains(recipe));
        self.masked.retain(|key, _| wanted.contains(key));

        let missing: Vec<&Recipe> = recipes.into_iter().filter(|recipe| !self.whole.contains_key(recipe)).collect();
        let build = |recipe: &&Recipe| ((*recipe).clone(), maglev::table(&recipe.members, recipe.size, hash).into());
        let built: Vec<(Recipe, Slots)> = match missing.as_slice() {
            [one] => vec![build(one)],
            many => many.par_iter().map(build).collect(),
        };
        self.whole.extend(built);

        let missing: Vec<_> =
            wanted.into_iter().filter(|key| key.1.contains(&true) && !self.masked.contains_key(key)).collect();
        let mask = |key: &&(Recipe, Mask)| {
            let is_masked = |owner| key.1[usize::from(owner)];
            ((*key).clone(), maglev::masked(&self.whole[&key.0], is_masked, hash).into())
        };
        let built: Vec<((Recipe, Mask), Slots)> = match missing.as_slice() {
            [one] => vec![mask(one)],
            many => many.par_iter().map(mask).collect(),
        };
        self.masked.extend(built);
    }

    /// The table by definitions alone, and the one with the mask. Both were prepared.
    pub fn get(&self, key: &(Recipe, Mask)) -> (Slots, Slots) {
        let whole = &self.whole[&key.0];
        (whole.clone(), self.masked.get(key).unwrap_or(whole).clone())
    }
}
