//! What the table of watches is made of: containers that grow in small steps, so that nobody who sets a watch waits until a
//! million others have moved, and no memory is left behind from where they were.

use std::ops::{Index, IndexMut};

use hashbrown::HashTable;

/// Values that move together while their chunk grows, and never again.
const CHUNK: usize = 1024;
/// Tables that an index consists of.
const PARTS: usize = 256;

/// Values by number, from 0.
pub(super) struct Chunks<T> {
    /// All but the last are full.
    chunks: Vec<Vec<T>>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Chunks<T> {
        Chunks { chunks: Vec::new() }
    }
}

impl<T> Chunks<T> {
    /// Adds a value and returns its number.
    pub(super) fn push(&mut self, value: T) -> usize {
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            self.chunks.push(Vec::new());
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let last = self.chunks.last_mut().expect("there is one now");
        last.push(value);
        before + last.len() - 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

impl<T> Index<u32> for Chunks<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}

/// Finds numbers by a hash of what they stand for. Lookups only, never iterated: so its order cannot show.
#[derive(Default)]
pub(super) struct Numbers {
    /// Empty, or [`PARTS`].
    parts: Vec<HashTable<u32>>,
    len: usize,
}

impl Numbers {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The number of this hash that `is_it` recognises.
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.parts.get(part_of(hash))?.find(hash, |number| is_it(*number)).copied()
    }

    /// Adds a number that is not there. `hash_of` gives the hash of any number that is.
    pub(super) fn insert(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        self.parts.resize_with(PARTS, HashTable::new);
        self.parts[part_of(hash)].insert_unique(hash, number, |number| hash_of(*number));
        self.len += 1;
    }

    /// Takes a number out if it is there.
    pub(super) fn remove(&mut self, hash: u64, number: u32) {
        let Some(part) = self.parts.get_mut(part_of(hash)) else { return };
        if let Ok(found) = part.find_entry(hash, |found| *found == number) {
            found.remove();
            self.len -= 1;
        }
    }
}

/// From bits in the middle: the table itself looks at those at both ends.
fn part_of(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_where_they_are_and_numbers_are_found() {
        const COUNT: u32 = 10 * CHUNK as u32 + 1;
        let hash_of = |number: u32| u64::from(number / 3).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (mut chunks, mut numbers) = (Chunks::default(), Numbers::default());
        let mut place = None;
        for number in 0..COUNT {
            assert_eq!(chunks.push(number.to_string()), number as usize);
            numbers.insert(hash_of(number), number, hash_of);
            if number as usize >= CHUNK {
                assert_eq!(*place.get_or_insert(&raw const chunks[5]), &raw const chunks[5]);
            }
        }
        chunks[7].push('x');
        assert_eq!((&*chunks[7], &*chunks[COUNT - 1]), ("7x", &*(COUNT - 1).to_string()));
        for number in (0..COUNT).step_by(2) {
            numbers.remove(hash_of(number), number);
            numbers.remove(hash_of(number), number);
        }
        assert_eq!(numbers.len(), COUNT as usize / 2);
        for number in 0..COUNT {
            let found = numbers.find(hash_of(number), |found| found == number);
            assert_eq!(found, (number % 2 == 1).then_some(number));
        }
    }
}
