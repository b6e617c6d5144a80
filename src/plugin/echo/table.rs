//! The connections, by slot. Pure.

use super::client::Client;

/// A connection's name: its slot, and how often the slot was used, so that
/// what was meant for one that is gone never reaches its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token {
    slot: u32,
    generation: u32,
}

impl From<u64> for Token {
    #[expect(clippy::cast_possible_truncation, reason = "two halves")]
    fn from(word: u64) -> Token {
        Token { slot: word as u32, generation: (word >> 32) as u32 }
    }
}

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        u64::from(token.generation) << 32 | u64::from(token.slot)
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    item: Option<T>,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Table<T = Client> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Table<T> {
    pub(super) fn new() -> Table<T> {
        Table { slots: Vec::new(), free: Vec::new() }
    }

    /// Adds what `make` makes of its name.
    pub(super) fn insert(&mut self, make: impl FnOnce(Token) -> T) -> Token {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, item: None });
            u32::try_from(self.slots.len() - 1).expect("fewer connections than descriptors")
        });
        let place = &mut self.slots[slot as usize];
        let token = Token { slot, generation: place.generation };
        place.item = Some(make(token));
        token
    }

    /// The one of that name, if it still is.
    pub(super) fn get(&mut self, token: Token) -> Option<&mut T> {
        let place = self.slots.get_mut(token.slot as usize)?;
        if place.generation == token.generation { place.item.as_mut() } else { None }
    }

    /// Whether that one is still there.
    pub(super) fn contains(&self, token: Token) -> bool {
        let place = self.slots.get(token.slot as usize);
        place.is_some_and(|place| place.generation == token.generation && place.item.is_some())
    }

    /// Takes it out; its name is never used again (for 2^32 uses of its slot).
    pub(super) fn remove(&mut self, token: Token) -> Option<T> {
        let place = self.slots.get_mut(token.slot as usize)?;
        if place.generation != token.generation {
            return None;
        }
        let item = place.item.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(token.slot);
        Some(item)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The names of all.
    pub(super) fn tokens(&self) -> Vec<Token> {
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, place)| place.item.is_some())
            .map(|(slot, place)| Token { slot, generation: place.generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_means_its_successor() {
        let mut table = Table::new();
        let (first, second) = (table.insert(|_| 'a'), table.insert(|_| 'b'));
        assert_eq!(table.remove(first), Some('a'));
        let third = table.insert(|_| 'c');
        assert_eq!((third.slot, table.len()), (first.slot, 2));
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&mut 'b'));
        assert_eq!(table.get(Token::from(u64::from(third))), Some(&mut 'c'));
        assert_eq!(table.tokens(), [third, second]);
    }
}
