//! The Maglev tables of all services, each distinct one built once and shared.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rayon::prelude::*;

use crate::maglev::{self, Member, SelectionHash};
use crate::service::State;

/// The slots of a table, each an index into its sorted members, or [`maglev::NOBODY`].
pub type Slots = Arc<[u16]>;

/// What makes a table: the same recipe is the same table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recipe {
    /// Sorted and distinct.
    pub members: Arc<[Member]>,
    pub size: u32,
}

/// What a service asks for: a table, and the states of its members, by index.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    pub recipe: Recipe,
    pub states: Arc<[State]>,
}

/// What it gets. One for all services that ask for the same.
#[derive(Debug)]
pub struct Table {
    pub shape: Shape,
    /// Who has a slot by definitions alone.
    pub owners: Slots,
    /// Who takes its new flows: only those that are active.
    pub now: Slots,
}

/// Which members may take nothing new, by index.
type Mask = Vec<bool>;

/// Tables by what asks for them, kept from one snapshot to the next.
#[derive(Debug, Default)]
pub struct Tables {
    whole: HashMap<Recipe, Slots>,
    masked: HashMap<(Recipe, Mask), Slots>,
    tables: HashMap<Shape, Arc<Table>>,
    /// Those that a service had before, by their address.
    left: HashMap<usize, Arc<Table>>,
}

impl Tables {
    /// Makes ready what `wanted` asks for. Only what is new is built, in parallel.
    pub fn prepare<'a>(&mut self, wanted: impl Iterator<Item = &'a Shape>, hash: &SelectionHash) {
        let wanted: HashSet<&Shape> = wanted.filter(|shape| !self.tables.contains_key(shape)).collect();
        let recipes: HashSet<&Recipe> = wanted.iter().map(|shape| &shape.recipe).collect();
        let recipes = recipes.into_iter().filter(|recipe| !self.whole.contains_key(recipe));
        let build = |recipe: &&Recipe| ((*recipe).clone(), maglev::table(&recipe.members, recipe.size, hash).into());
        self.whole.extend(each(&recipes.collect::<Vec<_>>(), build));

        let masks: HashSet<(&Recipe, Mask)> = wanted.iter().map(|shape| (&shape.recipe, shape.mask())).collect();
        let masks = masks.into_iter().filter(|(_, mask)| mask.contains(&true));
        let masks = masks.map(|(recipe, mask)| (recipe.clone(), mask));
        let mask = |key: &(Recipe, Mask)| {
            let is_masked = |owner| key.1[usize::from(owner)];
            (key.clone(), maglev::masked(&self.whole[&key.0], is_masked, hash).into())
        };
        let masked = each(&masks.filter(|key| !self.masked.contains_key(key)).collect::<Vec<_>>(), mask);
        self.masked.extend(masked);

        for shape in wanted {
            let owners = self.whole[&shape.recipe].clone();
            let now = self.masked.get(&(shape.recipe.clone(), shape.mask())).unwrap_or(&owners).clone();
            self.tables.insert(shape.clone(), Arc::new(Table { shape: shape.clone(), owners, now }));
        }
    }

    /// The one of a shape that was prepared.
    pub fn get(&self, shape: &Shape) -> Arc<Table> {
        self.tables[shape].clone()
    }

    /// Bytes of all slots.
    pub fn bytes(&self) -> usize {
        self.whole.values().chain(self.masked.values()).map(|slots| size_of_val(&**slots)).sum()
    }

    /// A service has another now, or none.
    pub fn leave(&mut self, table: Arc<Table>) {
        self.left.insert(Arc::as_ptr(&table) as usize, table);
    }

    /// Forgets what nobody has any more.
    pub fn forget_unused(&mut self) {
        // Here and among all tables; whoever else has it, a service or a snapshot.
        for (_, table) in self.left.extract_if(|_, table| Arc::strong_count(table) <= 2) {
            self.tables.remove(&table.shape);
            let masked = (table.shape.recipe.clone(), table.shape.mask());
            drop(table);
            let is_unused = |slots: &Slots| Arc::strong_count(slots) == 1;
            if self.masked.get(&masked).is_some_and(is_unused) {
                self.masked.remove(&masked);
            }
            if self.whole.get(&masked.0).is_some_and(is_unused) {
                self.whole.remove(&masked.0);
            }
        }
    }
}

impl Shape {
    fn mask(&self) -> Mask {
        self.states.iter().map(|&state| state != State::Active).collect()
    }
}

/// What `make` makes of each; of a single one without waking other threads.
fn each<T: Sync, K: Send>(all: &[T], make: impl Fn(&T) -> (K, Slots) + Sync + Send) -> Vec<(K, Slots)> {
    match all {
        [one] => vec![make(one)],
        many => many.par_iter().map(make).collect(),
    }
}
