//! A table whose entries have IDs that are never reused. Pure.

/// An entry's ID: its slot, and how often the slot was used before. So an event for a closed
/// connection never reaches the next connection in its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    slot: u32,
    generation: u32,
}

impl From<u64> for Id {
    #[expect(clippy::cast_possible_truncation, reason = "two halves")]
    fn from(word: u64) -> Id {
        Id { slot: word as u32, generation: (word >> 32) as u32 }
    }
}

impl From<Id> for u64 {
    fn from(id: Id) -> u64 {
        u64::from(id.generation) << 32 | u64::from(id.slot)
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    item: Option<T>,
}

/// All entries.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Slots<T> {
        Slots { slots: Vec::new(), free: Vec::new() }
    }

    /// Adds an entry.
    pub(super) fn insert(&mut self, item: T) -> Id {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, item: None });
            u32::try_from(self.slots.len() - 1).expect("fewer connections than descriptors")
        });
        let place = &mut self.slots[slot as usize];
        let id = Id { slot, generation: place.generation };
        place.item = Some(item);
        id
    }

    /// The entry with that ID, if it is still there.
    pub(super) fn get(&mut self, id: Id) -> Option<&mut T> {
        let place = self.slots.get_mut(id.slot as usize)?;
        if place.generation == id.generation { place.item.as_mut() } else { None }
    }

    /// Whether the entry with that ID is still there.
    pub(super) fn contains(&self, id: Id) -> bool {
        let place = self.slots.get(id.slot as usize);
        place.is_some_and(|place| place.generation == id.generation && place.item.is_some())
    }

    /// Removes it. Its ID is not reused (for 2^32 uses of its slot).
    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        let place = self.slots.get_mut(id.slot as usize)?;
        if place.generation != id.generation {
            return None;
        }
        let item = place.item.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.slot);
        Some(item)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The IDs of all entries.
    pub(super) fn ids(&self) -> Vec<Id> {
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, place)| place.item.is_some())
            .map(|(slot, place)| Id { slot, generation: place.generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_never_means_the_next_entry_in_its_slot() {
        let mut slots = Slots::new();
        let (first, second) = (slots.insert('a'), slots.insert('b'));
        assert_eq!(slots.remove(first), Some('a'));
        let third = slots.insert('c');
        assert_eq!((third.slot, slots.len()), (first.slot, 2));
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&mut 'b'));
        assert_eq!(slots.get(Id::from(u64::from(third))), Some(&mut 'c'));
        assert_eq!(slots.ids(), [third, second]);
    }
}
